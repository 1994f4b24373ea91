"""One of N, drawn by lot: what choosing has to beat."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.evaluation.rivals.base import without_evaluation
from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.types import Sample

__all__ = ["RandomChoice"]


class RandomChoice:
    """Choose any finished sample: measured as the mean over all of them."""

    needs: frozenset[Signal] = frozenset()

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return plain Best-of-N."""
        return without_evaluation(drawing)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return all of them."""
        return tuple(finished)
