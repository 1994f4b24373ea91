"""Scoring in this process: for what is known to end, and for functions that were handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from selfeval_backend.scorers.base import Scored, Scoring, said
from selfeval_backend.scorers.kinds import Judgement, call_function

__all__ = ["FunctionScorer", "LocalScorer"]


class LocalScorer:
    """Scores one response after the other; an exception is an error of its response.

    Args:
        judgement: Scores one.
    """

    def __init__(self, judgement: Judgement) -> None:
        self._judgement = judgement

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response."""
        return [self._score(item) for item in items]

    def _score(self, item: Scoring) -> Scored:
        try:
            return self._judgement(item)
        except Exception as error:  # noqa: BLE001  # it may raise anything
            return Scored(error=said(error))

    def close(self) -> None:
        """Do nothing: nothing was started."""


class FunctionScorer(LocalScorer):
    """A function of the caller's own, in this process: nothing stops it where it does not end.

    Args:
        function: Takes ``(response, row)`` where there is a row, else ``(prompt, response,
            answer)``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(partial(call_function, function))
