"""Signals combined by a small regularised logistic regression on pairs of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.signals.records import Array, Prompt
from benchmarks.signals.signals import Signal, standardised

__all__ = ["cross_fitted", "fit", "transferred"]

NUM_FOLDS = 10
RIDGE = 1.0
"""The penalty on squared weights; each prompt's pairs count as one together."""
_NEWTON_STEPS = 25


def cross_fitted(prompts: Sequence[Prompt], signals: Sequence[Signal]) -> tuple[Array, ...]:
    """Return the combination of each prompt's samples, [P][K], fitted on other prompts' rewards.

    Every tenth prompt makes a fold.
    """
    features = [_features(prompt, signals) for prompt in prompts]
    found: list[Array] = [np.empty(0)] * len(prompts)
    for fold in range(NUM_FOLDS):
        learnt = [p for p in range(len(prompts)) if p % NUM_FOLDS != fold]
        weights = _fit_prompts([features[p] for p in learnt], [prompts[p] for p in learnt])
        for p in range(fold, len(prompts), NUM_FOLDS):
            found[p] = features[p] @ weights
    return tuple(found)


def transferred(
    prompts: Sequence[Prompt], signals: Sequence[Signal], others: Sequence[Prompt]
) -> tuple[Array, ...]:
    """Return the combination of each prompt's samples, [P][K], fitted on other models' prompts."""
    weights = _fit_prompts([_features(prompt, signals) for prompt in others], others)
    return tuple(_features(prompt, signals) @ weights for prompt in prompts)


def fit(differences: Array, counts: Array) -> Array:
    """Return the weights under which the better sample of a pair is likeliest to score higher, [F].

    Logistic regression without an intercept, by Newton's method.

    Args:
        differences: Of the better sample's signals and the worse one's, [N, F].
        counts: How much each pair counts, [N].
    """
    weights = np.zeros(differences.shape[1])
    ridge = RIDGE * np.eye(len(weights))
    for _ in range(_NEWTON_STEPS):
        right = 1 / (1 + np.exp(-differences @ weights))
        gradient = differences.T @ (counts * (1 - right)) - RIDGE * weights
        curvature = differences.T @ (differences * (counts * right * (1 - right))[:, None])
        weights = weights + np.linalg.solve(curvature + ridge, gradient)
    return weights


def _features(prompt: Prompt, signals: Sequence[Signal]) -> Array:
    """Return a prompt's signals, each standardised within it, [K, F]."""
    return np.stack([standardised(signal.of(prompt)) for signal in signals], axis=-1)


def _fit_prompts(features: Sequence[Array], prompts: Sequence[Prompt]) -> Array:
    differences, counts = [np.empty((0, features[0].shape[1]))], [np.empty(0)]
    for each, prompt in zip(features, prompts, strict=True):
        better, worse = np.nonzero(prompt.rewards[:, None] > prompt.rewards)
        differences.append(each[better] - each[worse])
        counts.append(np.full(len(better), 1 / max(len(better), 1)))
    return fit(np.concatenate(differences), np.concatenate(counts))
