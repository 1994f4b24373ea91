"""Prompts with their samples, as they were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_parquet

__all__ = ["QUESTIONS", "Array", "Prompt", "Sample", "read"]

Array = NDArray[np.float64]

QUESTIONS = ("paper", "better", "complete", "p_true")
"""What was asked after each response: names of `benchmarks.samples.QUESTIONS`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One response, and what its model gave away about it."""

    response: str
    final_answer: str | None
    """The same text for the same answer; None: there is none, or nothing to compare."""
    reward: float
    """High is good."""
    ended: bool
    """By itself, and not at max_tokens."""
    logprobs: Array
    """Natural, of each generated token, at temperature 1."""
    entropies: Array
    """Of each token's distribution, in nats."""
    self_certainties: Array
    """Of each token's distribution: the mean of -log(V p) over the vocabulary."""
    log_odds: Mapping[str, float]
    """Of the good answer against the bad one, by question."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """All samples of one prompt."""

    part: str
    kind: str
    samples: tuple[Sample, ...]
    """The greedy one, then at least one that was drawn."""

    @property
    def rewards(self) -> Array:
        """Of the samples, [K]."""
        return np.array([sample.reward for sample in self.samples])


def read(path: Path) -> tuple[Prompt, ...]:
    """Read what `benchmarks.samples collect` wrote.

    Raises:
        DatasetError: The file cannot be read, is empty, or has a prompt without a greedy sample or
            without another one.
    """
    rows = read_parquet(path)
    prompts = tuple(
        _prompt(path, prompt_id, list(group))
        for prompt_id, group in groupby(rows, key=lambda row: str(row["prompt_id"]))
    )
    if not prompts:
        raise DatasetError(f"{path} has no samples: collect them from a run that has drawn some")
    return prompts


def _prompt(path: Path, prompt_id: str, rows: list[dict[str, Any]]) -> Prompt:
    rows.sort(key=lambda row: int(row["sample"]))
    if len(rows) < 2 or rows[0]["sample"] != 0:
        raise DatasetError(f"{path}: {prompt_id} has to have sample 0, the greedy one, and others")
    return Prompt(
        part=rows[0]["part"], kind=rows[0]["kind"], samples=tuple(_sample(row) for row in rows)
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        response=row["response"],
        final_answer=row.get("final_answer"),  # files without the column have nothing to compare
        reward=row["reward"],
        ended=row["finish_reason"] == "stop",
        logprobs=np.array(row["logprobs"], np.float64),
        entropies=np.array(row["entropies"], np.float64),
        self_certainties=np.array(row["self_certainties"], np.float64),
        log_odds={
            name: row[f"logprob_good_{name}"] - row[f"logprob_bad_{name}"] for name in QUESTIONS
        },
    )
