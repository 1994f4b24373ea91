"""A user's own prompts: one JSON object a line, and how their answers are judged.

``{"prompt": "...", "answer": "...", "id": "..."}``: `answer` is the reference, `id` is optional.
Scorers:

* ``exact``: the response is the reference, up to case and space around it;
* ``regex:PATTERN``: what the pattern's first group (or the whole match) finds last in the response
  is the reference, up to space; numbers are compared as numbers (1,000.0 is 1000);
* ``math``: math-verify finds the same value or expression;
* ``package.module:function``: ``function(response, row) -> float``, any finite number, with the
  row as it stands in the file. It is imported and run: point at code that you trust.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from selfeval_backend.errors import ConfigurationError, DatasetError, MissingDependencyError
from selfeval_backend.evaluation.tasks.base import TaskItem, no_answer
from selfeval_backend.files import read_json_lines

__all__ = ["JsonlTask", "normalised_number"]

Score = Callable[[str, Mapping[str, Any]], float]
Extract = Callable[[str], str | None]


class JsonlTask:
    """Prompts of a file.

    Args:
        path: The file.
        scorer: See the module's docstring.
        n: Most prompts; None: all.

    Raises:
        ConfigurationError: The scorer is unknown, or cannot be imported.
        DatasetError: The file cannot be read, or a row lacks what it needs; names file and line.
        MissingDependencyError: math-verify is not installed.
    """

    def __init__(self, path: Path, *, scorer: str = "exact", n: int | None = None) -> None:
        self.name = path.stem
        score, extract, needs_answer = _scorer(scorer)
        items: list[TaskItem] = []
        for line, row in read_json_lines(path):
            if n is not None and len(items) == n:
                break
            for field in ("prompt", "answer") if needs_answer else ("prompt",):
                if not isinstance(row.get(field), str) or not row[field].strip():
                    raise DatasetError(f"{path}, line {line}: {field!r} is missing, or no text")
            items.append(
                TaskItem(
                    prompt=row["prompt"],
                    reward=partial(_score_row, score, row),
                    answer=extract,
                    prompt_id=str(row.get("id", f"line-{line}")),
                )
            )
        if not items:
            raise DatasetError(f"{path}: no rows")
        self.items = tuple(items)


def _score_row(score: Score, row: Mapping[str, Any], response: str) -> float:
    return score(response, row)


def _scorer(spec: str) -> tuple[Score, Extract, bool]:
    """Return (score, answer extractor, whether rows need an answer)."""
    kind, _, rest = spec.partition(":")
    if spec == "exact":
        return _exact, _folded, True
    if kind == "regex" and rest:
        try:
            pattern = re.compile(rest)
        except re.error as error:
            raise ConfigurationError("scorer", spec, f"a regular expression ({error})") from error
        return partial(_matches, pattern), partial(_found, pattern), True
    if spec == "math":
        parse, verify = _math_verify()
        return (
            lambda response, row: float(verify(parse(row["answer"]), parse(response))),
            lambda response: _parsed(parse(response)),
            True,
        )
    if rest and re.fullmatch(r"[\w.]+:\w+", spec):
        return _imported(kind, rest), no_answer, False
    raise ConfigurationError(
        "scorer", spec, '"exact", "regex:PATTERN", "math" or "package.module:function"'
    )


def _folded(text: str) -> str | None:
    return text.strip().casefold() or None


def _exact(response: str, row: Mapping[str, Any]) -> float:
    return float(_folded(response) == _folded(row["answer"]))


def _found(pattern: re.Pattern[str], response: str) -> str | None:
    found = list(pattern.finditer(response))
    if not found:
        return None
    text = found[-1].group(1) if pattern.groups else found[-1].group()
    return None if text is None else normalised_number(text)


def _matches(pattern: re.Pattern[str], response: str, row: Mapping[str, Any]) -> float:
    return float(_found(pattern, response) == normalised_number(row["answer"]))


def normalised_number(text: str) -> str:
    """Return a number's plainest form ("$1,000.0" is "1000"); other text without space around."""
    plain = text.strip().replace(",", "").removeprefix("$").rstrip(".")
    try:
        value = float(plain)
    except ValueError:
        return text.strip()
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _math_verify() -> tuple[Callable[[str], Any], Callable[[Any, Any], bool]]:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise MissingDependencyError("math-verify", extra="eval") from error
    # Its time limits are signals, which only a main thread can have.
    return partial(parse, parsing_timeout=None), partial(verify, timeout_seconds=None)


def _parsed(found: list[Any]) -> str | None:
    return str(found[0]) if found else None


def _imported(module: str, name: str) -> Score:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError("scorer", f"{module}:{name}", f"importable ({error})") from error
    if not callable(function):
        raise ConfigurationError("scorer", f"{module}:{name}", "a function")

    def score(response: str, row: Mapping[str, Any]) -> float:
        return float(function(response, row))

    return score
