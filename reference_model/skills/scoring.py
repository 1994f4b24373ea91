"""Scores of responses: 1.0 where a response is what was wanted, else 0.0."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reference_model.skills.base import Example
from selfeval_backend.chat import RawCall, read_calls
from selfeval_backend.reference import task
from selfeval_backend.reference.problems import Puzzle, expression_of, plans_of

__all__ = ["extract_answer", "reward", "score"]

_LONGEST_TEXT = 80
"""Characters of a string that is the model's own."""
_MARK = "Answer:"


def reward(example: Example, response: str) -> float:
    """Return 1.0 where a response is what an example wants, else 0.0."""
    return score(example.answer, response)


def score(answer: str, response: str) -> float:
    """Return 1.0 where a response is what was wanted, else 0.0.

    Args:
        answer: `Example.answer`: JSON that says what is wanted.
        response: A model's.
    """
    want: Mapping[str, Any] = json.loads(answer)
    kind = next(iter(want))
    return float(_CHECKS[kind](want, response.strip()))


def extract_answer(response: str) -> str:
    """Return what stands behind the last "Answer:"; all of it where there is none."""
    return response.rpartition(_MARK)[2].strip()


def _is_text(want: Mapping[str, Any], response: str) -> bool:
    return response == str(want["text"]).strip()


def _is_answer(want: Mapping[str, Any], response: str) -> bool:
    return extract_answer(response) == str(want["answer"])


def _solves(want: Mapping[str, Any], response: str) -> bool:
    return task.score("", response, want["puzzle"]) == 1.0


def _is_call(want: Mapping[str, Any], response: str) -> bool:
    call, wanted = _only_call(response), want["call"]
    return call is not None and _same([call.name, call.arguments], [*wanted.values()])


def _is_free_call(want: Mapping[str, Any], response: str) -> bool:
    call, wanted = _only_call(response), want["free_call"]
    if call is None or call.name != wanted["name"]:
        return False
    return _is_filled(call.arguments, wanted["keys"])


def _reaches(want: Mapping[str, Any], response: str) -> bool:
    """Whether a call calculates a sum of a puzzle's numbers that reaches its target."""
    call = _only_call(response)
    if call is None or call.name != want["name"] or not isinstance(call.arguments, dict):
        return False
    if list(call.arguments) != [want["argument"]]:
        return False
    puzzle = Puzzle(numbers=tuple(want["numbers"]), target=want["reach"])
    reaching = [expression_of(p) for p in plans_of(puzzle) if sum(p) == puzzle.target]
    return call.arguments[want["argument"]] in reaching


def _is_json(want: Mapping[str, Any], response: str) -> bool:
    return _same(_read(response), want["json"])


def _has_keys(want: Mapping[str, Any], response: str) -> bool:
    return _is_filled(_read(response), want["keys"])


def _is_filled(value: Any, keys: Sequence[str]) -> bool:
    """Whether an object has these keys, and no string of it is empty or without end."""
    if not isinstance(value, dict) or sorted(value) != sorted(keys):
        return False
    return all(0 < len(v.strip()) <= _LONGEST_TEXT for v in value.values() if isinstance(v, str))


def _only_call(response: str) -> RawCall | None:
    calls = read_calls(_read(response))
    return calls[0] if len(calls) == 1 else None


def _read(response: str) -> Any:
    try:
        return json.loads(response)
    except ValueError:
        return None


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON: 1 is not true, and the order of keys is nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], str], bool]] = {
    "answer": _is_answer,
    "call": _is_call,
    "free_call": _is_free_call,
    "json": _is_json,
    "keys": _has_keys,
    "puzzle": _solves,
    "reach": _reaches,
    "text": _is_text,
}
"""By the first key of what is wanted."""
