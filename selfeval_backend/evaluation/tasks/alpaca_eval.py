"""AlpacaEval: open-ended prompts, judged against reference outputs.

The file is the benchmark's own: a JSON array of ``{"instruction": ..., "output": ...}``, 805
prompts with the outputs that are to be beaten (``alpaca_eval_gpt4_baseline.json``).

Source: arXiv 2404.04475.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_json
from selfeval_backend.samples.tasks import TaskItem
from selfeval_backend.scorers import ScorerIdentity

__all__ = ["AlpacaEvalTask", "PairwiseJudge"]


class PairwiseJudge(Protocol):
    """Says how much better one response is than another.

    One that has an `identity` keeps its rewards for the next run; without one they are made anew.
    """

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
        rows = read_json(path)
        if not isinstance(rows, list) or not rows:
            raise DatasetError(f"{path}: expected a JSON array of objects")
        items = []
        identity: ScorerIdentity | None = getattr(judge, "identity", None)
        for place, row in enumerate(rows[:n]):
            for field in ("instruction", "output"):
                if not isinstance(row, dict) or not isinstance(row.get(field), str):
                    raise DatasetError(f"{path}, row {place}: {field!r} must be text")
            items.append(
                TaskItem(
                    prompt=row["instruction"],
                    reward=partial(_preference, judge, row["instruction"], row["output"]),
                    reference=row["output"],
                    prompt_id=f"alpaca-{place}",
                    scorer=identity,
                    basis=row["output"],
                )
            )
        self.items = tuple(items)


def _preference(judge: PairwiseJudge, instruction: str, reference: str, response: str) -> float:
    return judge.preference(instruction, response, reference)
