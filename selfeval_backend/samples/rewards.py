"""Rewards of a prompt's samples: what they come to against one another, and how many failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfeval_backend.errors import DatasetError

__all__ = [
    "MAX_ERROR_SHARE",
    "Comparison",
    "Rewards",
    "compare",
    "refuse_failures",
    "win_or_tie_targets",
    "worst_reward",
]

MAX_ERROR_SHARE = 0.05
"""Of all rewards: more that fail are refused."""

Comparison = Literal["win", "tie", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """What a scorer says of the samples of one prompt: one entry each, in their order."""

    key: str
    """Of the samples."""
    scored_by: str | None
    """What they are made with; None: not known."""
    rewards: tuple[float | None, ...]
    """None where the scorer failed."""
    errors: tuple[str | None, ...]
    """Why it did."""
    answers: tuple[str | None, ...]
    """What can be put to a vote."""
    reference_characters: int | None = None
    """Of what responses are judged against; None where they are not."""


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


def worst_reward(rewards: Iterable[float]) -> float:
    """Return what counts where there is no reward: the lowest one, and 0 at most."""
    return min((0.0, *rewards))


def refuse_failures(
    failures: Iterable[tuple[str, str]],
    *,
    num_rewards: int,
    num_planned: int,
    max_error_share: float,
) -> None:
    """Refuse samples too many of which have no reward.

    Args:
        failures: (reason, what it is the reward of) of each that failed.
        num_rewards: How many there are, the failed ones among them.
        num_planned: How many there are going to be.
        max_error_share: Of those.

    Raises:
        DatasetError: Names how many there are, and the commonest reason with its first sample.
    """
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for reason, where in failures:
        reasons[reason] += 1
        first.setdefault(reason, where)
    if reasons.total() <= max_error_share * num_planned:
        return
    reason = reasons.most_common(1)[0][0]
    raise DatasetError(
        f"{reasons.total():,} of {num_rewards:,} rewards failed, more than max_error_share "
        f"({max_error_share:.0%}); most often, and first in {first[reason]}: {reason}"
    )
