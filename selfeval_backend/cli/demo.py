"""``aic demo``: what the methods are worth on held-out problems, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from selfeval_backend.cli.options import BaseUrls, Model
from selfeval_backend.cli.running import one_line_errors, with_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfeval_backend.evaluation.metrics import MethodReport
    from selfeval_backend.evaluation.tasks import TaskItem
    from selfeval_backend.model import SelfEvaluatingModel

__all__ = ["demo"]


def demo(
    *,
    n: Annotated[int, typer.Option("--n", help="Number of held-out problems.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of problems and samples.")] = 0,
    model: Model = "reference",
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers.", show_default="the best that is installed"),
    ] = None,
    base_url: BaseUrls = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Answer held-out problems with six methods, and compare accuracy and cost."""
    with one_line_errors():
        from selfeval_backend.evaluation.tasks import reference_items

        items = reference_items(n, seed=seed)
        rows = with_model(
            model, engine, lambda loaded: _compare(loaded, items, seed), base_url=base_url
        )
        from selfeval_backend.cli.demo_view import print_json, print_table

        if as_json:
            print_json(rows, model=model, n=n, seed=seed)
        else:
            print_table(rows, model=model, n=n, seed=seed)


async def _compare(
    model: SelfEvaluatingModel, items: Sequence[TaskItem], seed: int
) -> tuple[MethodReport, ...]:
    from selfeval_backend.cli.progress import live_progress
    from selfeval_backend.evaluation.live import compare
    from selfeval_backend.evaluation.methods import standard_methods

    methods = standard_methods(model)
    with live_progress() as progress:
        return await compare(model, items, methods, seed=seed, progress=progress)
