"""What a method is worth, and what it costs: standard library only.

Units: tokens are generated tokens (chosen, discarded, pruned, aborted) and self-evaluation tokens,
both counted for every method, Best-of-N too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfeval_backend.types import Outcome

__all__ = [
    "EstimatedSaving",
    "MethodReport",
    "MethodRun",
    "PromptResult",
    "estimate_saving",
    "improvement_kept",
    "report",
    "standard_error",
    "tokens_saved",
]

_EPSILON = 1e-12
"""Means of the same rewards may differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """What one prompt came to under one method."""

    reward: float
    """Of the chosen sample; high is good."""
    num_samples: float
    """Drawn, finished or not; not whole for the mean over several runs."""
    generated_tokens: float
    self_evaluation_tokens: float
    response_characters: float | None = None
    """Of the chosen sample's text; None where it is not known."""
    error: str | None = None
    """Why the chosen sample has no reward, and the worst one counts; the first, of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRun:
    """All prompts under one method."""

    results: tuple[PromptResult, ...]
    """At least one; in the order of the prompts."""
    seconds: float
    """Wall time of all of them together."""

    @property
    def accuracy(self) -> float:
        """Mean reward."""
        return statistics.fmean(r.reward for r in self.results)

    @property
    def num_errors(self) -> int:
        """How many prompts have no reward, and count as the worst."""
        return sum(r.error is not None for r in self.results)

    @property
    def tokens(self) -> float:
        """Generated and self-evaluation tokens of all prompts."""
        return sum(r.generated_tokens + r.self_evaluation_tokens for r in self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReport:
    """One row of a comparison."""

    method: str
    accuracy: float
    """Mean reward."""
    standard_error: float | None
    """Of `accuracy`, over prompts; None for a single prompt."""
    mean_samples: float
    """Drawn, a prompt."""
    generated_tokens: float
    """Of all prompts together."""
    self_evaluation_tokens: float
    """Of all prompts together."""
    improvement_kept: float | None
    """Share of the improvement from one sample to Best-of-N; None where there is none."""
    tokens_saved: float | None
    """Share of the tokens of Best-of-N; None where that spent none."""
    seconds: float
    """Wall time of all prompts together."""


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean over prompts; None for fewer than two."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


def improvement_kept(quality: float, *, one_sample: float, best_of_n: float) -> float | None:
    """Return (quality - one sample) / (Best-of-N - one sample); None where the latter are equal.

    Below 0 for a method that is worse than one sample, above 1 for one that beats Best-of-N.
    """
    improvement = best_of_n - one_sample
    if abs(improvement) < _EPSILON:
        return None
    return (quality - one_sample) / improvement + 0.0  # never -0.0


def tokens_saved(tokens: float, *, best_of_n: float) -> float | None:
    """Return 1 - tokens / tokens of Best-of-N; None where Best-of-N spent none."""
    return None if best_of_n == 0 else 1.0 - tokens / best_of_n


def report(
    runs: Mapping[str, MethodRun], *, one_sample: str, best_of_n: str
) -> tuple[MethodReport, ...]:
    """Compare methods that ran on the same prompts.

    Args:
        runs: By method's name.
        one_sample: The method from which improvement is counted.
        best_of_n: The method against which improvement and tokens are counted.

    Returns:
        One row for each method, in the order of `runs`.
    """
    floor, full = runs[one_sample], runs[best_of_n]
    return tuple(_row(method, run, floor, full) for method, run in runs.items())


def _row(method: str, run: MethodRun, floor: MethodRun, full: MethodRun) -> MethodReport:
    return MethodReport(
        method=method,
        accuracy=run.accuracy,
        standard_error=standard_error([r.reward for r in run.results]),
        mean_samples=statistics.fmean(r.num_samples for r in run.results),
        generated_tokens=sum(r.generated_tokens for r in run.results),
        self_evaluation_tokens=sum(r.self_evaluation_tokens for r in run.results),
        improvement_kept=improvement_kept(
            run.accuracy, one_sample=floor.accuracy, best_of_n=full.accuracy
        ),
        tokens_saved=tokens_saved(run.tokens, best_of_n=full.tokens),
        seconds=run.seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedSaving:
    """What one call spent, against an estimate of drawing all of its samples in full."""

    max_samples: int
    tokens: int
    """Spent: generated and self-evaluation tokens."""
    full_tokens: float
    """`max_samples` times the mean length of the finished samples and one self-evaluation each."""
    share: float
    """1 - tokens / full_tokens; below 0 where the call spent more."""


def estimate_saving(outcome: Outcome, *, max_samples: int) -> EstimatedSaving:
    """Estimate what a call saved against `max_samples` samples in full.

    An estimate: samples that were never drawn, or were stopped, might have been longer or shorter
    than those that finished. A self-evaluation costs what this call's cost in the mean.
    """
    usage = outcome.usage
    finished = [s.num_generated_tokens for s in outcome.samples if s.finished]
    evaluation = usage.self_evaluation_tokens / max(usage.self_evaluations, 1)
    tokens = usage.generated_tokens + usage.self_evaluation_tokens
    full_tokens = max_samples * (statistics.fmean(finished) + evaluation)
    return EstimatedSaving(
        max_samples=max_samples,
        tokens=tokens,
        full_tokens=full_tokens,
        share=1.0 - tokens / full_tokens,
    )
