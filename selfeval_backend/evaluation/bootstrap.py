"""Figures with their intervals: the one bootstrap, over prompts.

Axes: P prompts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "bootstrap", "interval", "resamples"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its 95 % bootstrap interval over prompts."""

    value: float
    low: float
    high: float


def bootstrap(
    of_weights: Callable[[Array], float],
    num_prompts: int,
    *,
    seed: int,
    num_resamples: int = 1000,
) -> Estimate:
    """Return a figure with its 95 % interval, drawing whole prompts with replacement.

    Args:
        of_weights: The figure, where each prompt counts as often as is said, [P]; NaN where there
            is nothing to say.
        num_prompts: P.
        seed: Of the draws.
        num_resamples: R.
    """
    value = of_weights(np.ones(num_prompts))
    if math.isnan(value):
        return Estimate(value=value, low=value, high=value)
    drawn = resamples(num_prompts, seed=seed, num_resamples=num_resamples)
    return interval(value, np.array([of_weights(weights) for weights in drawn]))


@lru_cache(maxsize=4)
def resamples(num_prompts: int, *, seed: int, num_resamples: int) -> Array:
    """Return how often each prompt counts in each resample, whole numbers, [R, P].

    Figures of many methods share them, so nobody may write to them.
    """
    counts = np.random.default_rng(seed).multinomial(
        num_prompts, np.full(num_prompts, 1.0 / num_prompts), size=num_resamples
    )
    drawn = counts.astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def interval(value: float, resampled: Array) -> Estimate:
    """Return a figure with the 95 % interval of what the resamples make of it.

    Args:
        value: Of all prompts.
        resampled: [R]; what is not finite says nothing and is left out. NaN where none is.
    """
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return Estimate(value=float(value) + 0.0, low=float(low), high=float(high))  # never -0.0
