"""GSM8K: grade-school arithmetic in words, from the Hugging Face hub or local.

Rows are as published: ``{"question": "...", "answer": "... #### 72"}``: ``openai/gsm8k`` by the
`datasets` library, a folder that it can read, or one file in JSON lines or Parquet
(``main/test-00000-of-00001.parquet``).

Source: Cobbe et al. 2021, arXiv 2110.14168.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_text
from selfeval_backend.hashing import digest_of
from selfeval_backend.samples.prompts import read_hub, read_rows
from selfeval_backend.samples.tasks import TaskItem
from selfeval_backend.scorers import ScorerIdentity, numbers
from selfeval_backend.scorers.numbers import final_number

__all__ = ["Gsm8kTask"]

INSTRUCTION = (
    "\n\nReason step by step, and end with a last line of the form '#### ' and the number alone."
)
"""Follows each question; ours. The paper's prompt is not in its published text."""

_HUB_NAME = "openai/gsm8k"


class Gsm8kTask:
    """The test problems.

    Args:
        path: JSON lines, Parquet, or a folder; None: they are downloaded.
        n: Most problems; None: all.

    Raises:
        DatasetError: They cannot be had, or a row lacks what it needs; names source and row.
        MissingDependencyError: A Parquet file, and pyarrow is not installed; anything but a file,
            and datasets is not.
    """

    name = "gsm8k"

    def __init__(self, path: Path | None = None, *, n: int | None = None) -> None:
        items: list[TaskItem] = []
        source = _HUB_NAME if path is None else path
        identity = ScorerIdentity(name="gsm8k", digest=digest_of(read_text(Path(numbers.__file__))))
        for place, (where, row) in enumerate(_rows(source), 1):
            if n is not None and len(items) == n:
                break
            question, answer = row.get("question"), row.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str):
                raise DatasetError(f"{where}: 'question' and 'answer' must be text")
            right = final_number(answer) if "####" in answer else None
            if right is None:
                raise DatasetError(f"{where}: the answer has no '#### ' and number")
            items.append(
                TaskItem(
                    prompt=question.strip() + INSTRUCTION,
                    reward=partial(_reward, right),
                    answer=final_number,
                    prompt_id=f"gsm8k-{place}",
                    scorer=identity,
                    basis=right,
                )
            )
        if not items:
            raise DatasetError(f"{source}: no rows")
        self.items = tuple(items)


def _reward(reference: str, response: str) -> float:
    return float(final_number(response) == reference)


def _rows(source: Path | str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(source, Path) and not source.is_dir():
        yield from read_rows(source)
        return
    remedy = "Give a local copy, a folder or its test file: --file PATH."
    rows = read_hub(source, config="main", split="test", remedy=remedy)
    yield from ((f"{source}, row {n}", row) for n, row in enumerate(rows, 1))
