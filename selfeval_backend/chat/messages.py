"""What a conversation is made of: turns, calls of tools, and the tools that may be called."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.files import is_whole_text

__all__ = [
    "CheckedMessages",
    "Message",
    "Role",
    "ToolCall",
    "ToolSpec",
    "check_messages",
    "check_turns",
    "new_call_id",
]

Role = Literal["system", "user", "assistant", "tool"]

_ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that a model may call."""

    name: str
    """What the model calls it by."""
    description: str = ""
    """What it does, for the model to read."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON schema of its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool, as a model wrote it."""

    id: str
    """What its result refers to; empty: it came without one, and is given one in the prompt."""
    name: str
    """Of the tool."""
    arguments: Mapping[str, Any]
    """By name, in JSON types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """What is said; may be empty beside calls of tools."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn."""
    tool_call_id: str | None = None
    """Of a tool's turn: the call that it answers; None: the next one that has no answer."""
    name: str | None = None
    """Of a tool's turn: the tool's; None: that of its call."""


def new_call_id() -> str:
    """Return an id for a call of a tool: nine letters or digits, which every family takes.

    Templates of Mistral's kind refuse all others.
    """
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


class CheckedMessages(tuple[Message, ...]):
    """A conversation that can be answered: what `check_messages` has let through."""

    __slots__ = ()


def check_messages(messages: Sequence[Message]) -> CheckedMessages:
    """Refuse a conversation that cannot be answered; return one that can, checked once for all.

    Raises:
        ConfigurationError: No message, an unknown role, a content that is no text, tool calls of
            anybody but the assistant, or an empty last message.
    """
    if isinstance(messages, CheckedMessages):
        return messages
    if not messages:
        raise ConfigurationError("messages", list(messages), "at least one message")
    check_turns(messages)
    if not messages[-1].content.strip() and messages[-1].role != "tool":
        raise ConfigurationError(
            f"messages[{len(messages) - 1}].content", messages[-1].content, "a prompt with text"
        )
    return CheckedMessages(messages)


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse turns that are none, wherever a conversation ends.

    Raises:
        ConfigurationError: An unknown role, a content that is no text, or tool calls of anybody but
            the assistant.
    """
    for place, message in enumerate(messages):
        if message.role not in get_args(Role):
            raise ConfigurationError(
                f"messages[{place}].role", message.role, f"one of {', '.join(get_args(Role))}"
            )
        if not isinstance(message.content, str):
            raise ConfigurationError(
                f"messages[{place}].content",
                message.content,
                "text",
                remedy="Images, audio and other blocks are not supported.",
            )
        if not is_whole_text(message.content):
            raise ConfigurationError(
                f"messages[{place}].content",
                message.content,
                "whole letters: half of a surrogate pair is no character",
                remedy="It was read in another encoding than it was written in.",
            )
        if message.tool_calls and message.role != "assistant":
            raise ConfigurationError(
                f"messages[{place}].tool_calls", message.tool_calls, "none but of the assistant"
            )
