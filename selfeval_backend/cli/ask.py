"""``aic ask``: answer one prompt, and show how the answer was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfeval_backend.cli.options import BaseUrls
from selfeval_backend.cli.running import one_line_errors, with_model
from selfeval_backend.errors import ConfigurationError

if TYPE_CHECKING:
    from selfeval_backend.cli.ask_view import Asked
    from selfeval_backend.model import SelfEvaluatingModel

__all__ = ["ask"]


def ask(
    prompt: Annotated[str, typer.Argument(help="What to answer.", metavar="PROMPT")],
    *,
    model: Annotated[
        str, typer.Option(help='"reference", a folder with a model, or a model name.')
    ] = "reference",
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers.", show_default="the best that is installed"),
    ] = None,
    base_url: BaseUrls = None,
    max_samples: Annotated[
        int | None, typer.Option(help="Most samples, at least 1.", show_default="the model's")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Draw no more once a finished sample has this prob_win_or_tie, in [0, 1].",
            show_default="the model's",
        ),
    ] = None,
    prune_at: Annotated[
        list[str] | None,
        typer.Option(
            help="Checkpoints, in generated tokens: 16,32, or none.",
            show_default="the model's",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Share of the samples that goes on past a checkpoint, in (0, 1]. One number, or "
            "one for each checkpoint: 0.5,0.25.",
            show_default="the model's",
        ),
    ] = None,
    accept_above: Annotated[
        str | None,
        typer.Option(
            help="At a checkpoint, take the best sample with at least this prob_win_or_tie as the "
            "answer, and stop the others. One number in [0, 1], or one for each checkpoint.",
            show_default="the model's, or never",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="In [0, 2]. With annealing the first sample is greedy, later ones come near it.",
            show_default="the model's",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one sample.", show_default="what fits")
    ] = None,
    max_total_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of the whole call.", show_default="no limit")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Most seconds of the whole call.", show_default="no limit")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="A string that ends a sample. May be repeated.", show_default="none"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed gives the same answer.", show_default="a new one"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole outcome with its trace as JSON.")
    ] = False,
) -> None:
    """Answer PROMPT. Show the answer, its confidence, its samples and what was saved."""
    with one_line_errors():
        given = {
            "max_samples": max_samples,
            "threshold": threshold,
            "prune_at": _checkpoints(prune_at),
            "keep_fraction": _shares("keep_fraction", keep, "--keep 0.5", in_range="(0.0, 1.0]"),
            "accept_above": _shares(
                "accept_above", accept_above, "--accept-above 0.9", in_range="[0.0, 1.0]"
            ),
            "temperature": temperature,
            "max_tokens": max_tokens,
            "max_total_tokens": max_total_tokens,
            "max_seconds": max_seconds,
            "stop": tuple(stop) if stop else None,
            "seed": seed,
        }
        _refuse_early(prompt, given)
        asked = with_model(
            model, engine, lambda loaded: _ask(loaded, prompt, given), base_url=base_url
        )
        from selfeval_backend.cli.ask_view import print_json, print_tables

        if as_json:
            print_json(asked)
        else:
            print_tables(asked)


def _refuse_early(prompt: str, given: Mapping[str, Any]) -> None:
    """Refuse what cannot be answered by any model, before weights are read."""
    from selfeval_backend.chat import Message, check_messages
    from selfeval_backend.settings import resolve_settings

    check_messages([Message(role="user", content=prompt)])
    resolve_settings(given, {})


async def _ask(model: SelfEvaluatingModel, prompt: str, given: Mapping[str, Any]) -> Asked:
    from selfeval_backend.chat import Message
    from selfeval_backend.cli.ask_view import Asked

    answer = await model.answer([Message(role="user", content=prompt)], model.settings(given))
    texts = [model.text(sample, answer.settings) for sample in answer.outcome.samples]
    return Asked(prompt=prompt, answer=answer, texts=tuple(texts))


def _checkpoints(given: list[str] | None) -> tuple[int, ...] | None:
    """Read ``16,32``, ``16 --prune-at 32``, or ``none``; None where nothing was given."""
    if not given:
        return None
    if [text.strip().lower() for text in given] == ["none"]:
        return ()
    try:
        return tuple(int(part) for text in given for part in text.split(","))
    except ValueError:
        raise ConfigurationError(
            "prune_at", ",".join(given), 'whole numbers in ascending order, or "none"'
        ) from None


def _shares(
    field: str, given: str | None, example: str, *, in_range: str
) -> float | tuple[float, ...] | None:
    """Read ``0.5`` or ``0.5,0.25``; None where nothing was given."""
    if given is None:
        return None
    try:
        shares = tuple(float(part) for part in given.split(","))
    except ValueError:
        raise ConfigurationError(
            field,
            given,
            f"a number in {in_range}, or one for each checkpoint",
            remedy=f"For example {example}, or {example},0.25.",
        ) from None
    return shares[0] if len(shares) == 1 else shares
