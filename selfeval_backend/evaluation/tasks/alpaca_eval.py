"""AlpacaEval: open-ended prompts, judged against reference outputs.

The file is the benchmark's own: a JSON array of ``{"instruction": ..., "output": ...}``, 805
prompts with the outputs that are to be beaten (``alpaca_eval_gpt4_baseline.json``).

Source: arXiv 2404.04475.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.tasks.base import TaskItem

__all__ = ["AlpacaEvalTask", "PairwiseJudge", "length_controlled_win_rate"]


class PairwiseJudge(Protocol):
    """Says how much better one response is than another."""

    def preference(self, instruction: str, response: str, reference: str) -> float:
        """Return the preference for the response, in [0, 1]; may block."""
        ...


class AlpacaEvalTask:
    """Prompts with reference outputs; a reward is the judge's preference, its mean the win rate.

    Args:
        path: The benchmark's file.
        judge: Compares a response with the reference.
        n: Most prompts; None: all.

    Raises:
        DatasetError: The file cannot be read, or a row lacks what it needs; names file and row.
    """

    name = "alpaca_eval"

    def __init__(self, path: Path, *, judge: PairwiseJudge, n: int | None = None) -> None:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        if not isinstance(rows, list) or not rows:
            raise DatasetError(f"{path}: expected a JSON array of objects")
        items = []
        for place, row in enumerate(rows[:n]):
            for field in ("instruction", "output"):
                if not isinstance(row, dict) or not isinstance(row.get(field), str):
                    raise DatasetError(f"{path}, row {place}: {field!r} must be text")
            items.append(
                TaskItem(
                    prompt=row["instruction"],
                    reward=partial(_preference, judge, row["instruction"], row["output"]),
                    prompt_id=f"alpaca-{place}",
                )
            )
        self.items = tuple(items)


def _preference(judge: PairwiseJudge, instruction: str, reference: str, response: str) -> float:
    return judge.preference(instruction, response, reference)


def length_controlled_win_rate(
    preferences: Sequence[float],
    response_lengths: Sequence[int],
    reference_lengths: Sequence[int],
) -> float:
    """Return the win rate that equally long responses would have.

    A logistic regression of the preference on tanh of the standardised difference in length, read
    off at no difference. Upstream also has a term for each instruction's difficulty, from a table
    of its leaderboard's fit that is not at hand here, and regularises towards gamed baselines: so
    this is no leaderboard figure.

    Source: arXiv 2404.04475, section 3.

    Args:
        preferences: In [0, 1], one a prompt; at least two.
        response_lengths: In characters.
        reference_lengths: In characters.

    Raises:
        ConfigurationError: The lengths of the arguments differ, or there are fewer than two.
    """
    import numpy as np

    target = np.asarray(preferences, dtype=np.float64)
    gap = np.asarray(response_lengths, dtype=np.float64) - np.asarray(reference_lengths)
    if len(target) < 2 or gap.shape != target.shape:
        raise ConfigurationError("preferences", len(target), "two or more, with as many lengths")
    spread = gap.std(ddof=1)
    features = np.stack([np.ones_like(gap), np.tanh(gap / spread if spread else gap * 0.0)], axis=1)
    weights = np.zeros(2)
    for _ in range(50):  # Newton's method; a slight ridge keeps separable data finite
        prob = 1.0 / (1.0 + np.exp(-features @ weights))
        gradient = features.T @ (prob - target) + _RIDGE * weights
        curvature = (features.T * (prob * (1.0 - prob))) @ features + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return float(1.0 / (1.0 + np.exp(-weights[0])))


_RIDGE = 1e-2
