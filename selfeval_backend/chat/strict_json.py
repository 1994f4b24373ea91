"""JSON as its standard has it, out of a model's text: a value, or what stands in its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Written", "end_of_brackets", "read_json", "read_written"]

_PAIRS = {"{": "}", "[": "]", "(": ")"}
_QUOTED_OR_BRACKET = re.compile(
    r""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|[\[\](){}]""", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What stands in a text where a JSON value begins."""

    value: Any = None
    end: int
    """Where it ends; of what is cut off, the text's end."""
    error: str | None = None
    """Why it is no JSON; None: it is."""
    cut: bool = False
    """Whether the text ends before it does."""


def read_json(text: str) -> Any:
    """Return the value of a text that is JSON, and nothing else.

    Stricter than `json.loads`: numbers that are none, keys that stand twice, and halves of a
    character are refused too, as what reads them next may take them otherwise, or not at all.

    Raises:
        ValueError: It is no JSON; says why.
    """
    start = len(text) - len(text.lstrip())
    value, end = _decoded(text, start)
    if rest := text[end:].strip():
        raise ValueError(f"it goes on behind its end: {rest[:40]!r}")
    return value


def read_written(text: str, start: int) -> Written:
    """Return the value that begins at a place of a text, or why there is none.

    Args:
        text: What follows the value may be anything.
        start: Of its first bracket.
    """
    try:
        value, end = _decoded(text, start)
        return Written(value=value, end=end)
    except ValueError as error:
        end_found = end_of_brackets(text, start)
        if end_found is None:
            return Written(end=len(text), error="it is no JSON: it is cut off", cut=True)
        return Written(end=end_found, error=f"it is no JSON: {error}")


def end_of_brackets(text: str, start: int) -> int | None:
    """Return the place behind the bracket that closes the one at `start`; None: nothing does.

    Brackets within quotes of either kind do not count.
    """
    waiting: list[str] = []
    for found in _QUOTED_OR_BRACKET.finditer(text, start):
        letter = found[0]
        if letter in _PAIRS:
            waiting.append(_PAIRS[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
            if not waiting:
                return found.end()
    return None


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("its values stand too deep within each other") from None
    if "\\ud" in text[start:end].lower():
        _check_characters(value)
    return value, end


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character") from None


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return made


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number
)
