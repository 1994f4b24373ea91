"""Best-of-N by what the model thought of its own tokens as it drew them."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.evaluation.rivals.base import best_by, without_evaluation
from selfeval_backend.evaluation.signals import Signal, Signals, known
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.types import Sample

__all__ = ["MeanLogprob", "SelfCertainty"]


class MeanLogprob:
    """Choose the highest mean log-probability a token.

    Source: length-normalised likelihood as in arXiv 2206.14858 (Minerva), appendix, whose
    tie-breaker it is; temperature 1, whatever the sample was drawn at.
    """

    needs: frozenset[Signal] = frozenset({"sum_logprob"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return plain Best-of-N."""
        return without_evaluation(drawing)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the likeliest one."""

        def mean_logprob(sample: Sample) -> float:
            record = signals(sample)
            return known(record.sum_logprob, "sum_logprob") / record.num_generated_tokens

        return (best_by(finished, mean_logprob),)


class SelfCertainty:
    """Choose the highest self-certainty: the mean KL of next-token distributions from uniform.

    Source: Kang et al. 2025, arXiv 2502.18581, section 4; without its Borda vote.
    """

    needs: frozenset[Signal] = frozenset({"self_certainty"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return plain Best-of-N."""
        return without_evaluation(drawing)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the most certain one."""

        def certainty(sample: Sample) -> float:
            return known(signals(sample).self_certainty, "self_certainty")

        return (best_by(finished, certainty),)
