"""What a chat template takes, found out by trying it: once, and the same for every conversation.

Templates differ in what they refuse, and some leave out in silence what they do not know. So each
habit is tried with a conversation of marks: the template has it if all marks are in what it writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from selfeval_backend.chat.messages import ToolSpec
from selfeval_backend.chat.plain import tool_dict
from selfeval_backend.errors import ConfigurationError

__all__ = ["CallHabits", "Habits", "Render", "Turn"]

Turn = dict[str, Any]
"""A turn as chat templates take it."""

_A, _B, _C, _D = "markalpha", "markbeta", "markgamma", "markdelta"
_TOOL = "does_the_template_show_tools"
_CALLED = ("does_it_show_calls", "and_a_second_one")
_KEY, _VALUE = "markkey", "markvalue"
_ARGUMENTS = {_KEY: _VALUE}
_IDS = ("abcDEF123", "ghiJKL456")
_LONG_ID = "call_0123456789abcdef01234567"


class Render(Protocol):
    """What writes turns as the template does."""

    def __call__(self, turns: Sequence[Turn], tools: Sequence[Turn] = ()) -> str:
        """Return the text.

        Raises:
            ConfigurationError: The template takes no such conversation.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHabits:
    """How a template takes calls of tools and their results."""

    arguments_as_text: bool = False
    """Whether arguments are JSON text; else they are objects."""
    empty_content: str | None = ""
    """What stands for the text of a turn with calls alone."""
    text_beside_calls: bool = True
    """Whether a turn may have both, and keeps both when the conversation has gone on."""
    several_calls: bool = True
    """Whether a turn may have more than one."""
    any_id: bool = True
    """Whether ids may be other than nine letters or digits."""
    results_alone: bool = True
    """Whether there may be results without a call in front."""
    user_behind_result: bool = True
    """Whether the user may speak right behind a result."""
    assistant_first: bool = True
    """Whether the assistant may begin, where tools are given: some are shown in the first turn,
    which is then taken for the user's."""
    system_alone: bool = True
    """Whether there may be nothing but a turn of the system, where tools are given."""
    keeps_system: bool = True
    """Whether the system's text is still shown if a result is last. Some templates put it
    beside the user's words, and only where these are last."""


class Habits:
    """What one template takes; each thing is tried when it is first asked for.

    Args:
        render: Writes turns.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._calls: dict[bool, CallHabits | None] = {}

    @cached_property
    def content_in_parts(self) -> bool:
        """Whether content is a list of parts; else it is text."""
        in_parts = _user([_part(_A)])
        return _A not in self._written([_user(_A)]) and _A in self._written([in_parts])

    @cached_property
    def system(self) -> bool:
        """Whether there is a turn of the system, in front of all others."""
        return self._takes([_system(_A), _user(_B)])

    @cached_property
    def system_alone(self) -> bool:
        """Whether there may be nothing but a turn of the system."""
        return self.system and self._takes([_system(_A)])

    @cached_property
    def system_before_assistant(self) -> bool:
        """Whether the system's text is still shown if the assistant spoke last."""
        return self.system and self._takes([_system(_A), _user(_B), _assistant(_C)])

    @cached_property
    def several_systems(self) -> bool:
        """Whether there may be more than one in front."""
        return self.system and self._takes([_system(_A), _system(_B), _user(_C)])

    @cached_property
    def late_system(self) -> bool:
        """Whether there may be one further on, beside one in front or not."""
        late = [_user(_A), _assistant(_B), _system(_C), _user(_D)]
        return self.system and self._takes(late) and self._takes([_system(_KEY), *late])

    @cached_property
    def runs(self) -> bool:
        """Whether one role may have several turns in a row."""
        users = [_user(_A), _user(_B), _assistant(_C), _user(_D)]
        assistants = [_user(_A), _assistant(_B), _assistant(_C), _user(_D)]
        return self._takes(users) and self._takes(assistants)

    @cached_property
    def assistant_first(self) -> bool:
        """Whether the assistant may begin."""
        return self._takes([_assistant(_A), _user(_B)])

    @cached_property
    def tools(self) -> bool:
        """Whether tools are shown."""
        return self._shows([_user(_A)], _TOOL, tools=_tools())

    def calls(self, *, with_tools: bool) -> CallHabits | None:
        """Return how calls and results are taken; None: they are not.

        Args:
            with_tools: Whether tools are given too. Some tokenizers have another template for it.
        """
        if with_tools not in self._calls:
            self._calls[with_tools] = self._find_calls(_tools() if with_tools else [])
        return self._calls[with_tools]

    def _find_calls(self, tools: Sequence[Turn]) -> CallHabits | None:
        ways = [
            CallHabits(arguments_as_text=as_text, empty_content=empty)
            for as_text in (False, True)
            for empty in ("", None)
        ]
        ranks = [self._rank(way, tools) for way in ways]
        best = max(ranks)
        return self._with_details(ways[ranks.index(best)], tools) if best else None

    def _rank(self, way: CallHabits, tools: Sequence[Turn]) -> int:
        """Tell how well a call is written: 0, not at all; 3, with its arguments as they should."""
        turns = [_user(_A), _assistant(way.empty_content, _call(0, way)), _result(0, _B)]
        text = self._text(turns, tools)
        if _CALLED[0] not in text or _B not in text:
            return 0
        if _KEY not in text or _VALUE not in text:
            return 1
        quoted_twice = f'\\"{_KEY}' in text
        of_python = f"'{_KEY}':" in text
        return 2 if quoted_twice or of_python else 3

    def _with_details(self, way: CallHabits, tools: Sequence[Turn]) -> CallHabits:
        """Return a way to write calls, with what else is taken in it."""
        shows = partial(self._shows, tools=tools)
        empty, asked, answered = way.empty_content, _user(_A), _result(0, _B)
        called = _assistant(empty, _call(0, way))
        said = _assistant(_D, _call(0, way))
        both = _assistant(empty, _call(0, way), _call(1, way))
        gone_on = [_assistant(_C), _user(_KEY)]
        begun = self._text([_assistant(_A), _user(_B)], tools)
        other = _assistant(empty, _call(0, way, given_id=_LONG_ID))
        of_other = _result(0, _B, given_id=_LONG_ID)
        return replace(
            way,
            text_beside_calls=(
                shows([asked, said, answered], _CALLED[0], _B, _D)
                and shows([asked, said, answered, *gone_on], _CALLED[0], _B, _D)
            ),
            assistant_first=begun != self._text([_user(_A), _user(_B)], tools) and bool(begun),
            system_alone=shows([_system(_A)], _A),
            several_calls=shows([asked, both, answered, _result(1, _C)], *_CALLED, _B, _C),
            any_id=shows([asked, other, of_other], _CALLED[0], _B),
            results_alone=shows([asked, answered], _A, _B),
            keeps_system=shows([_system(_D), asked, called, answered], _CALLED[0], _B, _D),
            user_behind_result=shows([asked, called, answered, _user(_C)], _CALLED[0], _B, _C),
        )

    def _takes(self, turns: Sequence[Turn]) -> bool:
        """Tell whether all that turns say is in the text."""
        return self._shows(turns, *(turn["content"] for turn in turns))

    def _shows(self, turns: Sequence[Turn], *marks: str, tools: Sequence[Turn] = ()) -> bool:
        text = self._text(turns, tools)
        return all(mark in text for mark in marks)

    def _text(self, turns: Sequence[Turn], tools: Sequence[Turn] = ()) -> str:
        return self._written([self.in_parts(turn) for turn in turns], tools)

    def _written(self, turns: Sequence[Turn], tools: Sequence[Turn] = ()) -> str:
        try:
            return self._render(turns, tools)
        except ConfigurationError:
            return ""

    def in_parts(self, turn: Turn) -> Turn:
        """Return a turn with its content as a list of parts, where the template wants it so."""
        if not self.content_in_parts or not isinstance(turn["content"], str):
            return turn
        return {**turn, "content": [_part(turn["content"])]}


def _part(text: str) -> Turn:
    return {"type": "text", "text": text}


def _user(content: str | list[Turn]) -> Turn:
    return {"role": "user", "content": content}


def _system(content: str) -> Turn:
    return {"role": "system", "content": content}


def _assistant(content: str | None, *calls: Mapping[str, Any]) -> Turn:
    turn: Turn = {"role": "assistant", "content": content}
    return {**turn, "tool_calls": list(calls)} if calls else turn


def _call(place: int, way: CallHabits, *, given_id: str | None = None) -> Turn:
    arguments = json.dumps(_ARGUMENTS) if way.arguments_as_text else _ARGUMENTS
    function = {"name": _CALLED[place], "arguments": arguments}
    return {"type": "function", "id": given_id or _IDS[place], "function": function}


def _result(place: int, content: str, *, given_id: str | None = None) -> Turn:
    call_id = given_id or _IDS[place]
    return {"role": "tool", "content": content, "tool_call_id": call_id, "name": "marktool"}


def _tools() -> list[Turn]:
    return [tool_dict(ToolSpec(name=_TOOL))]
