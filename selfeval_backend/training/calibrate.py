"""Calibration: from raw log-odds to the share of fresh samples that are not better, by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import IsotonicRegression

from selfeval_backend.evaluation.quality import Prediction, predictions, running_at, whole
from selfeval_backend.rollouts import Rollout
from selfeval_backend.selfeval import CalibrationMap, SelfEvaluator

__all__ = ["fit_calibration"]

_NUM_POINTS = 40
_MIN_PREDICTIONS = 200
"""Fewer do not carry a map of their own: the nearest position's serves."""


def fit_calibration(
    rollouts: Sequence[Rollout], evaluator: SelfEvaluator, positions: Sequence[int]
) -> tuple[CalibrationMap, ...]:
    """Fit one monotone map for finished responses and one for each position.

    Args:
        rollouts: Of held-out problems, with label log-probabilities at the positions and the end.
        evaluator: Not calibrated yet.
        positions: In generated tokens; only samples that still run there count.
    """
    maps = [_fit(predictions(rollouts, evaluator, whole), None)]
    for position in positions:
        items = predictions(rollouts, evaluator, running_at(position))
        if len(items) >= _MIN_PREDICTIONS:
            maps.append(_fit(items, position))
    return tuple(maps)


def _fit(items: Sequence[Prediction], num_tokens: int | None) -> CalibrationMap:
    """Isotonic regression over quantile bins, which keeps the file small and the ends unextreme."""
    logits = np.array([p.logit for p in items])
    targets = np.array([p.target for p in items])
    order = np.argsort(logits, kind="stable")
    bins = np.array_split(order, min(_NUM_POINTS, len(items)))
    xs = np.array([logits[b].mean() for b in bins])
    xs, first = np.unique(xs, return_index=True)
    ys = np.array([targets[bins[i]].mean() for i in first])
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(xs, ys)
    return CalibrationMap(
        num_tokens=num_tokens,
        raw_logit=tuple(float(x) for x in xs),
        prob_win_or_tie=tuple(round(float(y), 6) for y in fitted),
    )
