"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["DEFAULT_MODEL", "BaseUrls", "Model"]

DEFAULT_MODEL = "smollm2"
"""Of commands that are no puzzles'."""

Model = Annotated[
    str,
    typer.Option(
        help="A name that `aic models` lists, a folder with a model, or a model of the hub."
    ),
]
"""Which model runs."""

BaseUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        help="A running vLLM server, http://host:8000/v1; --model is the name it serves. "
        "Its key is taken from AIC_API_KEY. Given several times: replicas.",
        show_default="none",
    ),
]
"""Where servers are: a list, as a text is a sequence of letters."""
