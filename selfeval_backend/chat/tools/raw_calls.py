"""Calls in plain JSON: one, a list, or several in a row, whole or cut off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfeval_backend.chat.messages import ToolSpec
from selfeval_backend.chat.strict_json import Written, read_json, read_written

__all__ = ["Found", "RawCall", "Run", "broken", "looks_like_a_call", "read_calls", "read_run"]

CUT_OFF = "it is cut off"

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args")
_BESIDE = frozenset({"id", "type", "index", "tool_call_id", "call_id"})
"""What may stand beside a call's name and arguments."""

_HAS_NAME = re.compile(r"""["'](?:tool_)?name["']|["']function["']""")
_HAS_ARGUMENTS = re.compile(r"""["'](?:arguments|parameters)["']""")
_NAME_SO_FAR = re.compile(r"""["'](?:tool_)?name["']\s*:\s*["']?([\w.-]*)(\Z)?""")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCall:
    """What looks like a call, unchecked."""

    name: str | None
    arguments: Any
    """JSON value, or the text that is none."""
    error: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a parser found in a text."""

    text: str
    """What is not of a call."""
    calls: tuple[RawCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Calls that stand in a row."""

    calls: tuple[RawCall, ...] = ()
    end: int
    """Where the row ends in the text; where it began if there is none."""


def broken(text: str, error: str = CUT_OFF) -> RawCall:
    """Return a call that cannot be read."""
    return RawCall(name=None, arguments=text.strip(), error=error)


def read_calls(value: object) -> tuple[RawCall, ...]:
    """Return the calls that a JSON value holds; none if anything else is in it."""
    if isinstance(value, dict) and value.keys() == {"tool_calls"}:
        value = value["tool_calls"]
    items: list[object] = value if isinstance(value, list) else [value]
    calls = [call for item in items if (call := _as_call(item)) is not None]
    return tuple(calls) if len(calls) == len(items) else ()


def _as_call(item: object) -> RawCall | None:
    """Return a call in the words of one of the families, or of OpenAI's API."""
    if not isinstance(item, dict):
        return None
    function = item.get("function")
    if isinstance(function, dict) and item.keys() <= {*_BESIDE, "function"}:
        item = function
    names = [key for key in _NAMES if key in item]
    arguments = [key for key in _ARGUMENTS if key in item]
    if len(names) != 1 or len(arguments) != 1:
        return None
    if not item.keys() <= {*_BESIDE, names[0], arguments[0]}:
        return None
    return _with_arguments(item[names[0]], item[arguments[0]])


def _with_arguments(name: Any, arguments: Any) -> RawCall:
    """Return a call; arguments may be JSON within a string, as in OpenAI's API."""
    if not isinstance(arguments, str):
        return RawCall(name=name, arguments=arguments)
    try:
        return RawCall(name=name, arguments=read_json(arguments))
    except ValueError as error:
        problem = f"its arguments are no JSON: {error}"
        return RawCall(name=name, arguments=arguments, error=problem)


def looks_like_a_call(text: str, tools: Sequence[ToolSpec]) -> bool:
    """Tell whether a text that is no JSON was to become a call."""
    if _HAS_NAME.search(text) and _HAS_ARGUMENTS.search(text):
        return True
    begun = _NAME_SO_FAR.search(text)
    if begun is None:
        return False
    names = [tool.name for tool in tools]
    is_cut = begun[2] is not None
    return begun[1] in names or (is_cut and any(name.startswith(begun[1]) for name in names))


def read_run(text: str, start: int, tools: Sequence[ToolSpec], *, marked: bool = False) -> Run:
    """Read calls from a place on, as far as nothing else comes.

    They may be a list, or follow each other with white space, commas or semicolons in between. What
    looks like one and is cut off or no JSON is a broken one; so is a list without an end.

    Args:
        text: The whole.
        start: Where the first one begins.
        tools: That may be called.
        marked: Whether something in front says that there are calls: then all that is no JSON was
            to be one.
    """
    calls: list[RawCall] = []
    end = place = start
    list_error: str | None = None
    while (place := _next_value(text, place)) < len(text):
        if text[place] == "]" and list_error is not None:
            end = place = place + 1
            continue
        if text[place] not in "{[":
            break
        written = _written(text, place, tools)
        if written.error is not None and text[place] == "[":
            if not _holds_objects(text, place):
                break
            list_error, place = written.error, place + 1
            continue
        found = _found(text, place, written, tools, marked=marked or bool(calls))
        if not found:
            break
        calls += found
        end = place = written.end
    if calls and list_error is not None and not any(call.error for call in calls):
        calls.append(broken("", f"the list of calls: {list_error}"))
    return Run(calls=tuple(calls), end=end if calls else start)


def _found(
    text: str, place: int, written: Written, tools: Sequence[ToolSpec], *, marked: bool
) -> tuple[RawCall, ...]:
    if written.error is None:
        return read_calls(written.value)
    raw = text[place : written.end]
    return (broken(raw, written.error),) if marked or looks_like_a_call(raw, tools) else ()


def _written(text: str, place: int, tools: Sequence[ToolSpec]) -> Written:
    """Return a value; one without an end ends at the latest where a line begins the next call."""
    written = read_written(text, place)
    if not written.cut:
        return written
    names = "|".join(re.escape(tool.name) for tool in tools)
    begins = rf"""\n\s*\{{\s*"(?:tool_)?name"\s*:\s*"(?:{names})\""""
    behind = re.compile(begins).search(text, place)
    return written if behind is None else replace(written, end=behind.start())


def _next_value(text: str, place: int) -> int:
    while place < len(text) and (text[place].isspace() or text[place] in ",;"):
        place += 1
    return place


def _holds_objects(text: str, place: int) -> bool:
    """Tell whether the first value of a list that is no JSON is an object."""
    return text[place + 1 :].lstrip()[:1] == "{"
