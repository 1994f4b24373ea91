"""A user's own prompts: a row each, and how their answers are judged.

``{"prompt": "...", "answer": "...", "id": "..."}`` in JSON lines, CSV or Parquet: `prompt` is text
or a list of messages with role and content, `answer` is the reference, `id` is optional.
Scorers are named as `selfeval_backend.scorers.ScorerSpec` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from selfeval_backend.chat import Message
from selfeval_backend.errors import DatasetError, ScorerError
from selfeval_backend.hashing import digest_of
from selfeval_backend.samples.prompts import messages_of, read_rows
from selfeval_backend.samples.tasks import TaskItem
from selfeval_backend.scorers import Scored, Scorer, Scoring, identify, load_scorer, read_spec

__all__ = ["FileTask"]

_REMEMBERED = 4096
"""Responses whose reward and answer, which are asked for one by one, are made once."""


class FileTask:
    """Prompts of a file.

    Args:
        path: The file.
        scorer: See the module's docstring.
        n: Most prompts; None: all.
        scorer_timeout: Seconds that the scorer may take for a response, where it is not ours; None:
            see `load_scorer`.
        scorer_workers: Most processes that such a scorer runs in.

    Raises:
        ConfigurationError: The scorer is unknown, or cannot be imported.
        DatasetError: The file cannot be read, or a row lacks what it needs; names file and line.
        MissingDependencyError: math-verify is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        scorer: str = "exact",
        n: int | None = None,
        scorer_timeout: float | None = None,
        scorer_workers: int | None = None,
    ) -> None:
        self.name = path.stem
        spec = read_spec("scorer", scorer)
        rows = _rows(path, n=n, needs_answer=spec.needs_answer)
        identity = identify(spec)
        self._scorer = load_scorer(
            spec,
            field="scorer",
            with_rows=True,
            timeout_s=scorer_timeout,
            workers=scorer_workers,
        )
        scored = _Scored(self._scorer, [row for _, row in rows])
        self.items = tuple(
            TaskItem(
                prompt=_prompt(row["prompt"], where),
                reward=partial(scored.reward, place),
                answer=partial(scored.answer, place),
                prompt_id=str(row.get("id", where.rpartition(", ")[2].replace(" ", "-"))),
                scorer=identity,
                basis=row["answer"] if spec.needs_answer else digest_of(row),
            )
            for place, (where, row) in enumerate(rows)
        )

    def close(self) -> None:
        """End the processes that the scorer runs in."""
        self._scorer.close()


def _prompt(given: Any, where: str) -> str | tuple[Message, ...]:
    messages = messages_of(given, where)
    return given if isinstance(given, str) else messages


class _Scored:
    """What a scorer says of the responses to some rows."""

    def __init__(self, scorer: Scorer, rows: list[Mapping[str, Any]]) -> None:
        self._scorer = scorer
        self._rows = rows
        self._score = lru_cache(_REMEMBERED)(self._score_once)

    def reward(self, place: int, response: str) -> float:
        """Return the reward of a response to the row of a place.

        Raises:
            ScorerError: There is none.
        """
        scored = self._score(place, response)
        if scored.reward is None:
            raise ScorerError(scored.error or "the scorer said nothing")
        return scored.reward

    def answer(self, place: int, response: str) -> str | None:
        """Return what a response comes to."""
        return self._score(place, response).answer

    def _score_once(self, place: int, response: str) -> Scored:
        row = self._rows[place]
        answer = row.get("answer")
        item = Scoring(
            response=response, answer=answer if isinstance(answer, str) else None, row=row
        )
        (scored,) = self._scorer([item])
        return scored


def _rows(path: Path, *, n: int | None, needs_answer: bool) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (where it stands, row) of the first rows."""
    found = list(islice(read_rows(path), n))
    if not found:
        raise DatasetError(f"{path}: no rows")
    for where, row in found:
        if not row.get("prompt") or (isinstance(row["prompt"], str) and not row["prompt"].strip()):
            raise DatasetError(f"{where}: 'prompt' is missing, or no text")
        answer = row.get("answer")
        if needs_answer and not (isinstance(answer, str) and answer.strip()):
            raise DatasetError(f"{where}: 'answer' is missing, or no text")
    return found
