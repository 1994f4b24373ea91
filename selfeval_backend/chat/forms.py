"""What an answer must be, and what was found in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from selfeval_backend.chat.messages import ToolCall, ToolSpec, new_call_id
from selfeval_backend.chat.schemas import call_schema, closed
from selfeval_backend.chat.strict_json import read_json
from selfeval_backend.chat.tools.parsers import TextToolParser, ToolParser
from selfeval_backend.chat.tools.raw_calls import Found, RawCall, read_run
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.grammar import Grammar

__all__ = ["AnswerForm", "InvalidToolCall", "JsonForm", "Parsed", "ToolForm"]

_CHOICES = ("auto", "required", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidToolCall:
    """What looks like a call of a tool, and is none."""

    name: str | None
    arguments: str
    """As the model wrote them."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What was found in a response."""

    text: str
    """What is neither of a call nor reasoning."""
    reasoning: str | None = None
    """What the model thought before it; None: nothing, or it was not looked for."""
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    value: Any = None
    """Of a `JsonForm`: the JSON value."""
    error: str | None = None
    """Why it is not of the form that was asked for; None: it is."""

    @property
    def valid(self) -> bool:
        """Whether it is of the form that was asked for."""
        return self.error is None


class AnswerForm(Protocol):
    """What the answer to a prompt must be."""

    @property
    def grammar(self) -> Grammar | None:
        """What samples are drawn under; None: they are drawn freely, and only read."""
        ...

    @property
    def shown(self) -> tuple[ToolSpec, ...]:
        """Tools that the prompt shows."""
        ...

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether `parse` takes a text with special tokens."""
        ...

    def parse(self, text: str) -> Parsed:
        """Read a whole response; the same for the same text, but for the ids of calls."""
        ...

    def settled(self, text: str) -> str:
        """Return what of a growing response will stand in `Parsed.text`, at its beginning."""
        ...


@dataclass(frozen=True, kw_only=True)
class JsonForm:
    """JSON of a schema.

    Raises:
        ConfigurationError: The schema cannot be written as JSON.
    """

    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """The default is any object."""
    shown: tuple[ToolSpec, ...] = field(default=(), init=False)
    """No tools: the prompt shows none."""
    keeps_special_tokens: bool = field(default=False, init=False)
    """JSON is read without special tokens."""

    def __post_init__(self) -> None:
        """Write the schema as a grammar, or refuse it."""
        _ = self.grammar

    @cached_property
    def grammar(self) -> Grammar:
        """The schema; objects have no other properties than it names."""
        return Grammar.of(closed(self.schema))

    def parse(self, text: str) -> Parsed:
        """Read a whole response. Drawn under the grammar it is JSON of the schema, if whole."""
        try:
            return Parsed(text=text, value=read_json(text))
        except ValueError as error:
            return Parsed(text=text, error=f"it is no JSON: {error}")

    def settled(self, text: str) -> str:
        """Return all of it: JSON is text too."""
        return text


@dataclass(frozen=True, kw_only=True)
class ToolForm:
    """Calls of tools, or text where the choice is the model's.

    Raises:
        ConfigurationError: No tool, two of one name, a choice that is none, or parameters that are
            no JSON schema of an object.
    """

    tools: tuple[ToolSpec, ...]
    """Those that may be called."""
    choice: str = "auto"
    """"auto": a call or text; "required": a call; "none": text; or the name of the tool to call."""
    parallel: bool = True
    """Whether a response may have several calls; a named tool is called once."""
    parser: ToolParser = field(default_factory=TextToolParser)
    """Reads what was drawn freely. Where a call is forced it is plain JSON."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if not self.tools:
            raise ConfigurationError("tools", self.tools, "at least one tool")
        names = [tool.name for tool in self.tools]
        for name in names:
            if not name or names.count(name) > 1:
                raise ConfigurationError("tools", name, "names that differ, none of them empty")
        if self.choice not in (*_CHOICES, *names):
            raise ConfigurationError(
                "tool_choice", self.choice, f"one of {', '.join((*_CHOICES, *names))}"
            )
        for tool in self.tools:
            if not isinstance(tool.parameters, Mapping) or tool.parameters.get(
                "type", "object"
            ) != ("object"):
                raise ConfigurationError(
                    f"tools.{tool.name}.parameters", tool.parameters, "a JSON schema of an object"
                )
        _ = self.grammar  # refused now if it cannot be written

    @property
    def shown(self) -> tuple[ToolSpec, ...]:
        """Tools that the prompt shows."""
        return () if self.choice == "none" else self.tools

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether `parse` takes a text with special tokens."""
        return self.choice == "auto" and self.parser.keeps_special_tokens

    @property
    def _is_forced(self) -> bool:
        return self.choice not in ("auto", "none")

    @property
    def _callable(self) -> tuple[ToolSpec, ...]:
        named = tuple(tool for tool in self.tools if tool.name == self.choice)
        return named or self.tools

    @cached_property
    def grammar(self) -> Grammar | None:
        """Of a call that is forced; None where text is an answer too."""
        if not self._is_forced:
            return None
        parallel = self.parallel and self.choice == "required"
        return Grammar.of(call_schema(self._callable, parallel=parallel))

    def parse(self, text: str) -> Parsed:
        """Read a whole response."""
        if self.choice == "none":
            return Parsed(text=text)
        found = self._forced(text) if self._is_forced else self.parser.find(text, self.tools)
        checked = [_checked(call, self._callable) for call in found.calls]
        invalid = tuple(call for call in checked if isinstance(call, InvalidToolCall))
        return Parsed(
            text=found.text,
            tool_calls=tuple(call for call in checked if isinstance(call, ToolCall)),
            invalid_tool_calls=invalid,
            error=invalid[0].error if invalid else None,
        )

    def settled(self, text: str) -> str:
        """Return what of a growing response can be no call."""
        if self._is_forced:
            return ""
        return text if self.choice == "none" else self.parser.settled(text)

    def _forced(self, text: str) -> Found:
        run = read_run(text, 0, self._callable, marked=True)
        if run.calls and not text[run.end :].strip():
            return Found(text="", calls=run.calls)
        try:
            read_json(text)
            problem = "it is no call of a tool"
        except ValueError as error:
            problem = f"it is no JSON: {error}"
        return Found(text="", calls=(RawCall(name=None, arguments=text, error=problem),))


def _checked(call: RawCall, tools: Sequence[ToolSpec]) -> ToolCall | InvalidToolCall:
    tool = next((tool for tool in tools if tool.name == call.name), None)
    error = call.error
    if error is None and tool is None:
        error = f"there is no tool {call.name!r}: {', '.join(tool.name for tool in tools)}"
    if error is None and not isinstance(call.arguments, dict):
        error = "its arguments are no object"
    if error is None and tool is not None:
        missing = [n for n in tool.parameters.get("required", ()) if n not in call.arguments]
        error = f"its arguments lack {', '.join(missing)}" if missing else None
    if error is not None:
        raw = call.arguments
        written = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
        name = call.name if isinstance(call.name, str) else None
        return InvalidToolCall(name=name, arguments=written, error=error)
    assert isinstance(call.name, str), "it is the name of a tool"
    return ToolCall(id=new_call_id(), name=call.name, arguments=call.arguments)
