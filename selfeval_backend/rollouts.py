"""Recorded rollouts: all samples of a prompt with their rewards, and what they are worth.

What training, calibration and evaluation share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_json_lines, write_json_lines
from selfeval_backend.types import FinishReason

__all__ = [
    "Comparison",
    "Rollout",
    "RolloutSample",
    "compare",
    "load_rollouts",
    "only_annealed",
    "only_on_policy",
    "save_rollouts",
    "win_or_tie_targets",
]

Comparison = Literal["win", "tie", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSample:
    """One on-policy response."""

    token_ids: tuple[int, ...]
    """Without the end token."""
    finish_reason: FinishReason
    temperature: float
    reward: float
    sum_logprob: float
    """Natural, of the generated tokens under temperature 1."""
    label_logprobs: tuple[tuple[int, float, float], ...] = ()
    """(tokens of the prefix, log p(win or tie), log p(loss)), ascending; the whole comes last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """All samples of one prompt, from one model."""

    prompt: str
    """Its text, for people."""
    prompt_ids: tuple[int, ...]
    samples: tuple[RolloutSample, ...]


def compare(mine: float, other: float, *, tie_threshold: float = 0.0) -> Comparison:
    """Return what a reward comes to against another; they tie up to the threshold, inclusive."""
    if mine > other + tie_threshold:
        return "win"
    return "tie" if mine >= other - tie_threshold else "loss"


def win_or_tie_targets(rewards: Sequence[float], *, tie_threshold: float = 0.0) -> list[float]:
    """Return for each sample the share of the prompt's other samples that it wins or ties against.

    Args:
        rewards: Of all samples of one prompt, at least two; high is good.
        tie_threshold: Rewards that differ by no more than this tie.

    Raises:
        ValueError: There are fewer than two rewards.
    """
    if len(rewards) < 2:
        raise ValueError(f"a preference needs two samples of a prompt, got {len(rewards)}")
    others = len(rewards) - 1
    return [
        (
            sum(compare(mine, theirs, tie_threshold=tie_threshold) != "loss" for theirs in rewards)
            - 1
        )
        / others
        for mine in rewards
    ]


def only_on_policy(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return the rollouts with their temperature-1 samples alone: what Best-of-N draws."""
    return [_filtered(r, annealed=False) for r in rollouts]


def only_annealed(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return the rollouts with their annealed samples alone: what adaptive sampling draws."""
    return [_filtered(r, annealed=True) for r in rollouts]


def _filtered(rollout: Rollout, *, annealed: bool) -> Rollout:
    samples = tuple(s for s in rollout.samples if (s.temperature < 1.0) == annealed)
    return replace(rollout, samples=samples)


def save_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Write one JSON line a prompt.

    Raises:
        DatasetError: The file cannot be written.
    """
    write_json_lines(path, map(asdict, rollouts))


def load_rollouts(path: Path) -> list[Rollout]:
    """Read what `save_rollouts` wrote.

    Raises:
        DatasetError: The file cannot be read, or holds anything else; names the line.
    """
    found = []
    for number, row in read_json_lines(path, any_number=True):
        try:
            found.append(_rollout(row))
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path}, line {number}: no rollout: {error}") from error
    return found


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        prompt=row["prompt"],
        prompt_ids=tuple(row["prompt_ids"]),
        samples=tuple(
            RolloutSample(
                **{
                    **sample,
                    "token_ids": tuple(sample["token_ids"]),
                    "label_logprobs": tuple(map(tuple, sample["label_logprobs"])),
                }
            )
            for sample in row["samples"]
        ),
    )
