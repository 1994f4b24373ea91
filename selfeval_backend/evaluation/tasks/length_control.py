"""The win rate that equally long responses would have: judges like long ones.

Axes: P prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap

__all__ = ["length_controlled_estimate", "length_controlled_win_rate"]

Array = NDArray[np.float64]

_RIDGE = 1e-2
_NUM_STEPS = 50


def length_controlled_win_rate(
    preferences: ArrayLike, response_lengths: ArrayLike, reference_lengths: ArrayLike
) -> float:
    """Return the win rate that equally long responses would have.

    A logistic regression of the preference on tanh of the standardised difference in length, read
    off at no difference. Upstream also has a term for each instruction's difficulty, from a table
    of its leaderboard's fit that is not at hand here, and regularises towards gamed baselines: so
    this is no leaderboard figure.

    Source: arXiv 2404.04475, section 3.

    Args:
        preferences: [P], in [0, 1]; at least two.
        response_lengths: [P], in characters.
        reference_lengths: [P], in characters.

    Raises:
        ConfigurationError: The lengths of the arguments differ, or there are fewer than two.
    """
    target = np.asarray(preferences, dtype=np.float64)
    gap = np.asarray(response_lengths, dtype=np.float64) - np.asarray(reference_lengths)
    if len(target) < 2 or gap.shape != target.shape:
        raise ConfigurationError("preferences", len(target), "two or more, with as many lengths")
    spread = gap.std(ddof=1)
    features = np.stack([np.ones_like(gap), np.tanh(gap / spread if spread else gap * 0.0)], axis=1)
    weights = np.zeros(2)
    for _ in range(_NUM_STEPS):  # Newton's method; a slight ridge keeps separable data finite
        prob = 1.0 / (1.0 + np.exp(-features @ weights))
        gradient = features.T @ (prob - target) + _RIDGE * weights
        curvature = (features.T * (prob * (1.0 - prob))) @ features + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return float(1.0 / (1.0 + np.exp(-weights[0])))


def length_controlled_estimate(
    preferences: Array,
    response_lengths: Array,
    reference_lengths: Array,
    *,
    seed: int,
    num_resamples: int = 200,
) -> Estimate:
    """Return `length_controlled_win_rate` with its 95 % bootstrap interval over prompts.

    Args:
        preferences: [P], in [0, 1]; at least two.
        response_lengths: [P], in characters.
        reference_lengths: [P], in characters.
        seed: Of the resamples.
        num_resamples: How many.
    """

    def win_rate(weights: Array) -> float:
        chosen = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
        return length_controlled_win_rate(
            preferences[chosen], response_lengths[chosen], reference_lengths[chosen]
        )

    return bootstrap(win_rate, len(preferences), seed=seed, num_resamples=num_resamples)
