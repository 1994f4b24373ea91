"""What each kind of scorer does to one response, in whichever process."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from selfeval_backend.errors import MissingDependencyError
from selfeval_backend.importing import import_function
from selfeval_backend.scorers.base import Scored, Scoring, reward_of
from selfeval_backend.scorers.numbers import (
    final_part,
    normalised_number,
    read_number,
    same_answer,
)
from selfeval_backend.scorers.spec import ScorerSpec

__all__ = ["Judgement", "call_function", "make_judgement"]

Judgement = Callable[[Scoring], Scored]

_LONGEST_ANSWER = 4000
"""Characters that math-verify searches for an answer, from the end."""


def make_judgement(spec: ScorerSpec, *, field: str, with_rows: bool) -> Judgement:
    """Return what scores one response; what fails, it raises or returns as an error.

    Args:
        spec: Which scorer.
        field: The setting that names it, for errors.
        with_rows: Whether a function is given ``(response, row)``; else ``(prompt, response,
            answer)``.

    Raises:
        ConfigurationError: The function cannot be imported.
        MissingDependencyError: math-verify is not installed.
    """
    match spec.kind:
        case "exact":
            return _exact
        case "regex":
            return partial(_regex, re.compile(spec.detail))
        case "math":
            return _Math()
        case "function":
            num_arguments = 2 if with_rows else 3
            function = import_function(field, spec.detail, num_arguments=num_arguments)
            return partial(call_function, function)


def call_function(function: Callable[..., Any], item: Scoring) -> Scored:
    """Return what a user's function says of a response."""
    if item.row is not None:
        return reward_of(function(item.response, item.row))
    prompt = item.messages[-1].content if item.messages else ""
    return reward_of(function(prompt, item.response, item.answer))


def _exact(item: Scoring) -> Scored:
    if item.answer is None:
        return _no_reference()
    given, right = item.response.strip().casefold(), item.answer.strip().casefold()
    return Scored(reward=float(given == right), answer=given or None)


def _no_reference() -> Scored:
    return Scored(error="there is no reference answer")


def _regex(pattern: re.Pattern[str], item: Scoring) -> Scored:
    if item.answer is None:
        return _no_reference()
    found = deque(pattern.finditer(item.response), maxlen=1)
    text = found[-1].group(1 if pattern.groups else 0) if found else None
    if text is None:
        return Scored(reward=0.0)
    return Scored(reward=float(same_answer(text, item.answer)), answer=normalised_number(text))


class _Math:
    r"""1 where the response's answer is mathematically equal to the reference answer, else 0.

    What a response ends on is its answer (`final_part`), else what math-verify finds (the last
    number or expression). A response without any answer is wrong, not an error.
    """

    def __init__(self) -> None:
        try:
            import math_verify
        except ImportError as error:
            raise MissingDependencyError("math-verify", extra="eval") from error
        self._library: Any = math_verify

    def __call__(self, item: Scoring) -> Scored:
        if item.answer is None:
            return _no_reference()
        mine = final_part(item.response)
        if mine is not None and (number := read_number(mine)) is not None:
            theirs = read_number(final_part(item.answer) or item.answer)
            if theirs is not None and same_answer(mine, item.answer):
                return Scored(reward=1.0, answer=number.value)
        gold = self._parse(item.answer)
        if not gold:
            return Scored(error=f"the reference answer {item.answer[:40]!r} cannot be parsed")
        found = self._parse(item.response)
        equal = self._library.verify(gold, found, timeout_seconds=None, raise_on_error=True)
        return Scored(reward=float(equal), answer=_written(found))

    def _parse(self, text: str) -> list[Any]:
        # Its own time limits are signals; whoever runs this has a limit of another kind.
        parsed: list[Any] = self._library.parse(
            _math_text(text)[-_LONGEST_ANSWER:], parsing_timeout=None, raise_on_error=True
        )
        return parsed


def _written(found: list[Any]) -> str | None:
    """Return what a vote counts; a value that cannot be written is no vote."""
    if not found:
        return None
    text = str(found[0])
    return normalised_number(text)


def _math_text(text: str) -> str:
    r"""Return what is to be parsed: a marked answer as TeX, or from the last ``\boxed`` on."""
    _, marked, rest = text.rpartition("####")
    line = rest.strip().partition("\n")[0].strip()
    if marked and line:
        number = read_number(line)
        return f"${number.value if number else line.strip('$')}$"
    return text[max(text.rfind("\\boxed"), 0) :]
