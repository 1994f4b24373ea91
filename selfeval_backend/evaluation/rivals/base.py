"""What a rival is: how it goes about a prompt, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.types import Sample

__all__ = ["Rival", "best_by", "without_evaluation"]


class Rival(Protocol):
    """A way of deciding and of choosing that is not this project's own."""

    @property
    def needs(self) -> frozenset[Signal]:
        """What it looks at beside self-evaluations."""
        ...

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return what decides for one prompt.

        Args:
            drawing: Batches and temperatures as the method's settings have them.
            signals: Of the prompt's samples.
        """
        ...

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the samples that it would give back, each as likely as the others.

        Args:
            finished: At least one, in the order of drawing.
            signals: Of the prompt's samples.
        """
        ...


def without_evaluation(drawing: BestOfN) -> BestOfN:
    """Return the policy that draws as it would, and neither evaluates, prunes nor stops."""
    return replace(drawing, evaluate=False, threshold=None, pruning=())


def best_by(finished: Sequence[Sample], high_is_good: Callable[[Sample], float]) -> Sample:
    """Return the first of the samples with the highest value."""
    return max(finished, key=high_is_good)
