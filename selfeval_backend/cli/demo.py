"""``aic demo``: what the methods are worth on held-out problems, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from selfeval_backend.cli.options import DEFAULT_MODEL, BaseUrls, Model
from selfeval_backend.cli.running import note, one_line_errors, with_model
from selfeval_backend.errors import MissingDependencyError, ModelFilesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfeval_backend.cli.conversation import Answered
    from selfeval_backend.evaluation.metrics import MethodReport
    from selfeval_backend.evaluation.tasks import TaskItem
    from selfeval_backend.model import SelfEvaluatingModel

__all__ = ["demo"]

_NUM_INSTRUCTIONS = 40


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
    conversation: Annotated[
        bool,
        typer.Option(
            "--conversation/--no-conversation",
            help=f"Behind the problems, talk to {DEFAULT_MODEL}: {_NUM_INSTRUCTIONS} instructions "
            "whose answers are checked.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Answer held-out problems with six methods, and instructions with a real chat model."""
    with one_line_errors():
        from selfeval_backend.cli import demo_view as view
        from selfeval_backend.evaluation.tasks import reference_items

        items = reference_items(n, seed=seed)
        rows = with_model(
            model, engine, lambda loaded: _compare(loaded, items, seed), base_url=base_url
        )
        if not as_json:
            view.print_table(rows, model=model, n=n, seed=seed)
        own = model == "reference" and not base_url  # who names a model is shown that one alone
        talked = _talk(engine, seed) if conversation and own else ()
        if as_json:
            view.print_json(rows, talked, model=model, n=n, seed=seed)
        elif talked:
            view.print_conversation(talked, model=DEFAULT_MODEL, seed=seed)


async def _compare(
    model: SelfEvaluatingModel, items: Sequence[TaskItem], seed: int
) -> tuple[MethodReport, ...]:
    from selfeval_backend.cli.progress import live_progress
    from selfeval_backend.evaluation.live import compare
    from selfeval_backend.evaluation.methods import standard_methods

    methods = standard_methods(model)
    with live_progress() as progress:
        return await compare(model, items, methods, seed=seed, progress=progress)


def _talk(engine: str | None, seed: int) -> tuple[Answered, ...]:
    """Return what the chat model answered; nothing, and a line that says why, if it cannot be had.

    The problems are answered by then, and need no network.
    """
    from selfeval_backend.cli.conversation import converse
    from selfeval_backend.cli.fetching import fetch_first
    from selfeval_backend.evaluation.tasks import InstructionsTask

    try:
        fetch_first(DEFAULT_MODEL)
    except (MissingDependencyError, ModelFilesError) as error:
        note(f"the conversation with {DEFAULT_MODEL} is left out: {error}")
        return ()
    items = InstructionsTask(_NUM_INSTRUCTIONS, seed=seed).items
    return with_model(DEFAULT_MODEL, engine, lambda loaded: converse(loaded, items, seed=seed))
