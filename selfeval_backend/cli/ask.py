"""``aic ask``: answer one prompt, and show how the answer was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfeval_backend.cli import setting_options as options
from selfeval_backend.cli.options import (
    DEFAULT_MODEL,
    BaseUrls,
    EngineArgs,
    MinP,
    Model,
    RepetitionPenalty,
    TopK,
    TopP,
    engine_arguments,
)
from selfeval_backend.cli.running import one_line_errors, with_model

if TYPE_CHECKING:
    from selfeval_backend.chat import CheckedMessages
    from selfeval_backend.cli.ask_view import Asked
    from selfeval_backend.model import SelfEvaluatingModel

__all__ = ["ask"]


def ask(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to answer.", metavar="PROMPT")],
    *,
    model: Model = DEFAULT_MODEL,
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers.", show_default="the best that is installed"),
    ] = None,
    engine_args: EngineArgs = None,
    base_url: BaseUrls = None,
    # What follows are settings, up to seed: `given_settings` reads them.
    max_samples: options.MaxSamples = None,
    adaptive: options.Adaptive = None,
    threshold: options.Threshold = None,
    batches: options.Batches = None,
    prune_at: options.PruneAt = None,
    keep: options.KeepFraction = None,
    prune_below: options.PruneBelow = None,
    accept_above: options.AcceptAbove = None,
    temperature: options.Temperature = None,
    annealing: options.Annealing = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    max_tokens: options.MaxTokens = None,
    max_total_tokens: options.MaxTotalTokens = None,
    max_seconds: options.MaxSeconds = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole outcome with its trace as JSON.")
    ] = False,
) -> None:
    """Answer PROMPT. Show the answer, its confidence, its samples and what was saved."""
    with one_line_errors():
        given = options.given_settings(context.params)
        messages = _checked(prompt, given)
        asked = with_model(
            model,
            engine,
            lambda loaded: _ask(loaded, messages, given),
            engine_args=engine_arguments(engine_args),
            base_url=base_url,
        )
        from selfeval_backend.cli.ask_view import print_json, print_tables

        if as_json:
            print_json(asked)
        else:
            print_tables(asked)


def _checked(prompt: str, given: Mapping[str, Any]) -> CheckedMessages:
    """Refuse what cannot be answered by any model, before weights are read."""
    from selfeval_backend.chat import Message, check_messages
    from selfeval_backend.settings import lay_over

    lay_over(given, {})
    return check_messages([Message(role="user", content=prompt)])


async def _ask(
    model: SelfEvaluatingModel, messages: CheckedMessages, given: Mapping[str, Any]
) -> Asked:
    from selfeval_backend.cli.ask_view import Asked

    answer = await model.answer(messages, model.settings(given))
    return Asked(prompt=messages[-1].content, answer=answer, texts=tuple(model.texts(answer)))
