"""Options that are settings of a call: what each takes, and how it is read.

A command has them as parameters, named as here; `given_settings` reads what was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from selfeval_backend.cli.numbers import numbers, whole_numbers
from selfeval_backend.errors import ConfigurationError

__all__ = [
    "AcceptAbove",
    "Adaptive",
    "Annealing",
    "Batches",
    "KeepFraction",
    "MaxSamples",
    "MaxSeconds",
    "MaxTokens",
    "MaxTotalTokens",
    "PruneAt",
    "PruneBelow",
    "Seed",
    "Stop",
    "Temperature",
    "Threshold",
    "given_settings",
]

_OF_MODEL = "the model's"

MaxSamples = Annotated[
    int | None, typer.Option(help="Most samples, at least 1.", show_default=_OF_MODEL)
]
Adaptive = Annotated[
    bool | None,
    typer.Option(
        "--adaptive/--no-adaptive",
        help="Draw in growing batches, and stop at the threshold; or all samples at once.",
        show_default=_OF_MODEL,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Draw no more once a finished sample has this prob_win_or_tie, in [0, 1].",
        show_default=_OF_MODEL,
    ),
]
Batches = Annotated[
    str | None,
    typer.Option(
        help="How many samples there are after each batch: 1,4,16.", show_default=_OF_MODEL
    ),
]
PruneAt = Annotated[
    list[str] | None,
    typer.Option(help="Checkpoints, in generated tokens: 16,32, or none.", show_default=_OF_MODEL),
]
KeepFraction = Annotated[
    str | None,
    typer.Option(
        help="Share of the samples that goes on past a checkpoint, in (0, 1]. One number, or one "
        "for each checkpoint: 0.5,0.25.",
        show_default=_OF_MODEL,
    ),
]
PruneBelow = Annotated[
    str | None,
    typer.Option(
        help="At a checkpoint, stop samples with a lower prob_win_or_tie. One number in [0, 1], "
        "or one for each checkpoint.",
        show_default=_OF_MODEL,
    ),
]
AcceptAbove = Annotated[
    str | None,
    typer.Option(
        help="At a checkpoint, take the best sample with at least this prob_win_or_tie as the "
        "answer, and stop the others. One number in [0, 1], or one for each checkpoint.",
        show_default="the model's, or never",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="In [0, 2]. With annealing the first sample is greedy, later ones come near it.",
        show_default=_OF_MODEL,
    ),
]
Annealing = Annotated[
    str | None,
    typer.Option(
        help="annealed: greedy first, then warmer. constant. Or one temperature for each sample: "
        "0,0.5,1.",
        show_default=_OF_MODEL,
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Most tokens of one sample.", show_default="what fits")
]
MaxTotalTokens = Annotated[
    int | None, typer.Option(help="Most tokens of the whole call.", show_default="no limit")
]
MaxSeconds = Annotated[
    float | None, typer.Option(help="Most seconds of the whole call.", show_default="no limit")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="A string that ends a sample. May be repeated.", show_default="none"),
]
Seed = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same answer.", show_default="a new one"),
]


def given_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among a command's parameters, by their names in `Settings`.

    Args:
        parameters: By name, as typer has read them.

    Raises:
        ConfigurationError: A number or a list of numbers is none; names the setting.
    """
    from selfeval_backend.settings import SETTING_NAMES

    names = ("keep" if name == "keep_fraction" else name for name in SETTING_NAMES)
    given = {name: parameters[name] for name in names if _is_given(parameters.get(name))}
    if "keep" in given:
        given["keep_fraction"] = given.pop("keep")
    return {name: _READERS.get(name, _as_it_is)(value) for name, value in given.items()}


def _is_given(value: object) -> bool:
    return value is not None and value not in ([], ())  # a list that is not given is empty


def _as_it_is(value: Any) -> Any:
    return value


def _batches(given: str) -> tuple[int, ...] | None:
    return whole_numbers("batches", given)


def _checkpoints(given: list[str]) -> tuple[int, ...] | None:
    """Read ``16,32``, ``16 --prune-at 32``, or ``none``."""
    return whole_numbers("prune_at", ",".join(given))


def _annealing(given: str) -> str | tuple[float, ...]:
    """Read a word, or temperatures; what is neither the settings refuse."""
    try:
        return numbers("annealing", given, "temperatures")
    except ConfigurationError:
        return given


def _per_checkpoint(
    setting: str, example: str, *, in_range: str
) -> Callable[[str], float | tuple[float, ...]]:
    """Return what reads ``0.5``, or ``0.5,0.25``."""

    def read(given: str) -> float | tuple[float, ...]:
        shares = numbers(
            setting,
            given,
            f"a number in {in_range}, or one for each checkpoint",
            remedy=f"For example {example}, or {example},0.25.",
        )
        return shares[0] if len(shares) == 1 else shares

    return read


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "batches": _batches,
    "prune_at": _checkpoints,
    "keep_fraction": _per_checkpoint("keep_fraction", "--keep 0.5", in_range="(0.0, 1.0]"),
    "prune_below": _per_checkpoint("prune_below", "--prune-below 0.1", in_range="[0.0, 1.0]"),
    "accept_above": _per_checkpoint("accept_above", "--accept-above 0.9", in_range="[0.0, 1.0]"),
    "annealing": _annealing,
    "stop": tuple,
}
"""How what is no single value is read."""
