"""What a confidence is worth to somebody who may refuse: how right are the answers that are given.

Answers are given from the most confident one on. Answers of one confidence cannot be told apart, so
what is given of them is their mean: every figure is the expectation over their orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap

__all__ = ["SHARES", "RiskCoverage", "SharePoint", "risk_coverage"]

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of questions that are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharePoint:
    """What comes out where a share of the questions is answered."""

    share: float
    """In (0, 1]."""
    accuracy: Estimate
    """Mean reward of what is answered."""
    threshold: float
    """The lowest confidence that is answered. Where others have it too, and not all of them are
    within the share, no threshold answers just this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """A curve of shares answered and accuracies, and the area under its risk.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks,
    arXiv:1705.08500, and Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation,
    arXiv:1805.08206. We take ties in the mean, where an order of the data would break them.
    """

    points: tuple[SharePoint, ...]
    area: Estimate
    """Mean of 1 - accuracy over answering one question, two, ... and all of them: low is good."""
    perfect_area: Estimate
    """The same, were the answers ordered by how right they are."""
    random_area: Estimate
    """The same, of a confidence that says nothing: 1 - accuracy of all."""
    gain: Estimate
    """`random_area` - `area`, on the same questions: above 0 where the confidence says anything."""


def risk_coverage(
    confidences: Sequence[float],
    rewards: Sequence[float],
    *,
    prompts: Sequence[int] | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    num_resamples: int = 1000,
) -> RiskCoverage:
    """Return what a confidence is worth to somebody who may refuse.

    Args:
        confidences: Of the answers; high is good, and nothing but their order matters. An answer
            without one may have -inf.
        rewards: Of the answers, in [0, 1]: how right they are.
        prompts: Whose answers they are; None: each of a prompt of its own. Intervals are over
            prompts.
        shares: Of the points, in (0, 1].
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.

    Raises:
        ConfigurationError: No answers, not one confidence for each of them, a confidence that is no
            number, or a reward or a share outside of its range.
    """
    _check(confidences, rewards, shares)
    confidence = np.asarray(confidences, dtype=float)
    reward = np.asarray(rewards, dtype=float)
    owners = np.arange(len(reward)) if prompts is None else np.asarray(prompts)
    if len(owners) != len(reward):
        raise ConfigurationError("prompts", len(owners), f"one for each of {len(reward)} answers")
    _, prompt = np.unique(owners, return_inverse=True)
    num_prompts = int(prompt.max()) + 1
    order = _Order.of(confidence, reward, prompt)
    perfect = _Order.of(reward, reward, prompt)
    random = _Order.of(np.zeros_like(reward), reward, prompt)
    estimate = partial(bootstrap, num_prompts=num_prompts, seed=seed, num_resamples=num_resamples)
    return RiskCoverage(
        points=tuple(
            SharePoint(
                share=share,
                accuracy=estimate(partial(order.accuracy_at, share)),
                threshold=float(-np.sort(-confidence)[_num_answered(share, len(reward)) - 1]),
            )
            for share in shares
        ),
        area=estimate(order.area),
        perfect_area=estimate(perfect.area),
        random_area=estimate(random.area),
        gain=estimate(lambda weights: random.area(weights) - order.area(weights)),
    )


def _check(confidences: Sequence[float], rewards: Sequence[float], shares: Sequence[float]) -> None:
    if not rewards:
        raise ConfigurationError("rewards", list(rewards), "at least one")
    if len(confidences) != len(rewards):
        raise ConfigurationError(
            "confidences", len(confidences), f"one for each of {len(rewards)} answers"
        )
    for confidence in confidences:
        if np.isnan(confidence):
            raise ConfigurationError("confidences", confidence, "numbers")
    for reward in rewards:
        if not 0 <= reward <= 1:
            raise ConfigurationError("rewards", reward, "in [0, 1]")
    for share in shares:
        if not 0 < share <= 1:
            raise ConfigurationError("shares", share, "in (0, 1]")


def _num_answered(share: float, count: int) -> int:
    """Return how many answers are begun: a part of the last one counts."""
    return int(np.ceil(share * count - _ROUNDING * count))


_ROUNDING = 1e-9
"""0.7 of ten is a bit more than seven."""


@dataclass(frozen=True)
class _Order:
    """Answers from the most confident one on, those of one confidence as one group."""

    rank: np.ndarray
    """Of each answer, the group: from 0."""
    reward: np.ndarray
    prompt: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, reward: np.ndarray, prompt: np.ndarray) -> _Order:
        _, rank = np.unique(-confidence, return_inverse=True)
        return cls(rank, reward, prompt)

    def area(self, weights: np.ndarray) -> float:
        """Return the mean risk over all numbers of answers.

        A group of m answers, of which w are wrong, behind k answers, of which v are wrong: with j
        answers of it the risk is (v + j w / m) / (k + j) = w / m + (v - k w / m) / (k + j). Over
        j = 1 ... m this sums up to w + (v - k w / m) (H(k + m) - H(k)), H the harmonic numbers.

        Args:
            weights: How often each prompt counts, [P]: whole numbers.
        """
        size, wrong = self._groups(weights, 1.0 - self.reward)
        total = int(size.sum())
        if total == 0:
            return float("nan")
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, total + 1))])
        end, behind = np.cumsum(size), np.cumsum(wrong)
        before, wrong_before = end - size, behind - wrong
        rate = wrong / np.maximum(size, 1)
        span = harmonic[end.astype(int)] - harmonic[before.astype(int)]
        return float((wrong + (wrong_before - before * rate) * span).sum() / total)

    def accuracy_at(self, share: float, weights: np.ndarray) -> float:
        """Return the mean reward of a share of the answers; of the last one a part may count.

        Args:
            share: In (0, 1].
            weights: As of `area`.
        """
        size, right = self._groups(weights, self.reward)
        answered = share * size.sum()
        if answered == 0:
            return float("nan")
        before = np.cumsum(size) - size
        taken = np.clip(answered - before, 0.0, size) / np.maximum(size, 1)
        return float(taken @ right / answered)

    def _groups(self, weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how many answers each group has, and the sum of their values, both [G]."""
        weight = np.asarray(weights, dtype=float)[self.prompt]
        return np.bincount(self.rank, weights=weight), np.bincount(
            self.rank, weights=weight * values
        )
