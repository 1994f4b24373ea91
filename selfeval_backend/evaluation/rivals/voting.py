"""Votes among answers that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfeval_backend.evaluation.rivals.base import without_evaluation
from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy, select_best
from selfeval_backend.types import Sample

__all__ = ["MajorityVote", "WeightedVote", "count_votes", "winner"]


def count_votes(
    finished: Sequence[Sample], signals: Signals, weight: Callable[[Sample], float] = lambda _: 1.0
) -> dict[str, float]:
    """Return what each answer got, in the order in which answers came; abstentions left out."""
    votes: dict[str, float] = {}
    for sample in finished:
        answer = signals(sample).answer
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + weight(sample)
    return votes


def winner(
    finished: Sequence[Sample], signals: Signals, weight: Callable[[Sample], float] = lambda _: 1.0
) -> list[Sample]:
    """Return the samples of the answer with most votes, the earlier answer on a tie.

    Where no sample has an answer, all of them.
    """
    votes = count_votes(finished, signals, weight)
    if not votes:
        return list(finished)
    chosen = max(votes, key=lambda answer: votes[answer])
    return [sample for sample in finished if signals(sample).answer == chosen]


class MajorityVote:
    """Choose the commonest answer: self-consistency.

    Source: Wang et al. 2022, arXiv 2203.11171.
    """

    needs: frozenset[Signal] = frozenset({"answer"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return plain Best-of-N."""
        return without_evaluation(drawing)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the first sample with the commonest answer."""
        return (winner(finished, signals)[0],)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedVote:
    """Choose the answer with the highest sum of prob_win_or_tie, and its best sample.

    Source: weighted self-consistency with a verifier's score as the weight, Li et al. 2022, arXiv
    2206.02336 (DiVeRSe); the score is this project's self-evaluation. The policy is this project's
    own too, adaptive or not.
    """

    needs: frozenset[Signal] = frozenset({"answer"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return the policy of the settings as it is."""
        return drawing

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the best sample of the chosen answer."""
        chosen = select_best(winner(finished, signals, lambda sample: sample.confidence or 0.0))
        assert chosen is not None, "there is at least one"
        return (chosen,)
