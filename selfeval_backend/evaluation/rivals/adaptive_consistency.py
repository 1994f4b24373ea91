"""Adaptive-consistency: draw one at a time until the majority is safe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfeval_backend.evaluation.rivals.voting import count_votes, winner
from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy, TemperatureSchedule
from selfeval_backend.types import Advance, Decision, Draw, RunState, Sample, Stop

__all__ = ["AdaptiveConsistency", "prob_majority_holds"]


def prob_majority_holds(first: int, second: int) -> float:
    """Return the probability that the leading answer is truly more frequent than the next one.

    Under a uniform prior the leader's share among the two is Beta(first + 1, second + 1); this is
    its mass above one half.

    Args:
        first: Votes of the leading answer.
        second: Votes of the next one, at most `first`.
    """
    # P(Beta(a, b) > 1/2) with whole a, b is a binomial tail: P(Bin(a + b - 1, 1/2) <= a - 1).
    n = first + second + 1
    return math.fsum(math.comb(n, k) for k in range(first + 1)) / 2.0**n


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConsistency:
    """Stop once the leading answer beats the next one with some probability; vote.

    Source: Aggarwal et al. 2023, arXiv 2305.11860, section 3.2: the Beta criterion, one sample at a
    time, its own threshold 0.95.
    """

    threshold: float = 0.95
    needs: frozenset[Signal] = frozenset({"answer"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return the policy that draws one sample at a time."""
        return _OneAtATime(self.threshold, drawing.temperatures, signals)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the first sample with the commonest answer."""
        return (winner(finished, signals)[0],)


@dataclass(frozen=True, slots=True)
class _OneAtATime:
    threshold: float
    temperatures: TemperatureSchedule
    signals: Signals

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return ()

    def decide(self, state: RunState) -> Decision:
        if state.fault is not None:
            return Stop(reason="engine_error")
        if state.running:
            return Advance(until=None)
        votes = sorted(count_votes(state.finished, self.signals).values(), reverse=True)
        if votes:
            second = int(votes[1]) if len(votes) > 1 else 0
            if prob_majority_holds(int(votes[0]), second) >= self.threshold:
                return Stop(reason="confident")
        num_drawn = len(state.samples)
        if num_drawn >= state.limits.max_samples:
            return Stop(reason="max_samples")
        return Draw(temperatures=(self.temperatures.temperature(num_drawn),))
