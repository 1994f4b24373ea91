"""Best-of-N by the true reward: the ceiling of every choice among the same samples."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.evaluation.rivals.base import best_by, without_evaluation
from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.types import Sample

__all__ = ["Oracle"]


class Oracle:
    """Choose the sample with the highest reward, which nobody knows outside of an evaluation.

    Source: Best-of-N with the reward itself, the upper line of arXiv 2410.02725, figure 2.
    """

    needs: frozenset[Signal] = frozenset({"reward"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return plain Best-of-N."""
        return without_evaluation(drawing)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the best one."""
        return (best_by(finished, lambda sample: signals(sample).reward),)
