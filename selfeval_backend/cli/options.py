"""Options that several commands have."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from selfeval_backend.errors import ConfigurationError

__all__ = [
    "DEFAULT_MODEL",
    "BaseUrls",
    "EngineArgs",
    "MinP",
    "Model",
    "RepetitionPenalty",
    "TopK",
    "TopP",
    "engine_arguments",
]

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

TopP = Annotated[
    float | None,
    typer.Option(
        help="Draw from the fewest tokens with at least this probability together, in (0, 1].",
        show_default="the model's",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        help="Draw from this many of the likeliest tokens; 0: from all.",
        show_default="the model's",
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        help="Draw from tokens with at least this share of the likeliest one's probability, in "
        "[0, 1].",
        show_default="the model's",
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        help="Makes tokens of prompt and sample less likely above 1, more likely below.",
        show_default="the model's",
    ),
]

EngineArgs = Annotated[
    str | None,
    typer.Option(
        help="For vLLM in this process: arguments of vllm.EngineArgs as JSON, "
        """'{"tensor_parallel_size": 2}'.""",
        show_default="none",
    ),
]


def engine_arguments(given: str | None) -> dict[str, Any] | None:
    """Read `EngineArgs`; None where nothing was given.

    Raises:
        ConfigurationError: It is no JSON object.
    """
    if given is None:
        return None
    try:
        arguments = json.loads(given)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ConfigurationError(
            "engine_args", given, "a JSON object", remedy="""For example '{"dtype": "float32"}'."""
        )
    return arguments
