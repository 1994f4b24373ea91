"""Best-of-N by asking the model a question that it was never trained on."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.evaluation.rivals.base import best_by
from selfeval_backend.evaluation.signals import Signal, Signals, known
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.selfeval import raw_prob_win_or_tie
from selfeval_backend.types import Sample

__all__ = ["UntrainedQuestion"]


class UntrainedQuestion:
    """Choose the highest p(yes) of "is the answer right?", zero-shot.

    It is as expensive as a self-evaluation of the same length; its tokens are counted as the
    model's own question's, which is a lower bound where that one is shorter.

    Source: P(True) of Kadavath et al. 2022, arXiv 2207.05221, section 3.
    """

    needs: frozenset[Signal] = frozenset({"untrained_logprobs"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return Best-of-N with one question a finished sample."""
        return BestOfN(batches=drawing.batches, temperatures=drawing.temperatures)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the one that it says yes to most."""

        def prob_yes(sample: Sample) -> float:
            return raw_prob_win_or_tie(
                *known(signals(sample).untrained_logprobs, "untrained_logprobs")
            )

        return (best_by(finished, prob_yes),)
