"""Tools as plain text, for chat templates that know none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfeval_backend.chat.messages import Message, ToolSpec
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.files import is_whole_text

__all__ = ["in_plain_turns", "json_text", "plain_result", "tool_dict", "with_tools"]

_HOW_TO_CALL = 'To call a tool answer with JSON only: {"name": ..., "arguments": {...}}'
"""Short, as it is read with every prompt. `selfeval_backend.chat.tools` reads what comes of it."""


def tool_dict(tool: ToolSpec) -> dict[str, Any]:
    """Return a tool as chat templates take it."""
    function = {"name": tool.name, "description": tool.description}
    return {"type": "function", "function": {**function, "parameters": dict(tool.parameters)}}


def with_tools(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bool:
    """Tell whether there is anything of tools in a conversation."""
    return bool(tools) or any(m.role == "tool" or m.tool_calls for m in messages)


def in_plain_turns(
    messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
) -> tuple[Message, ...]:
    """Return a conversation with tools as one of text alone, for templates that know no tools.

    Tools stand in front of the first message, calls are JSON in the assistant's turn, and results
    are the user's; turns of the user that then follow each other become one.
    """
    turns: list[Message] = []
    for message in messages:
        plain = _plain_turn(message)
        if turns and turns[-1].role == plain.role == "user":
            plain = Message(role="user", content=f"{turns.pop().content}\n{plain.content}")
        turns.append(plain)
    return (*_with_tools_shown(turns, tools),) if tools else tuple(turns)


def _with_tools_shown(turns: Sequence[Message], tools: Sequence[ToolSpec]) -> list[Message]:
    shown = "\n".join(json_text(tool_dict(tool)["function"]) for tool in tools)
    text = f"Tools:\n{shown}\n{_HOW_TO_CALL}"
    if not turns or turns[0].role == "assistant":  # which does not tell itself of tools
        return [Message(role="user", content=text), *turns]
    first = Message(role=turns[0].role, content=f"{text}\n\n{turns[0].content}")
    return [first, *turns[1:]]


def json_text(value: Mapping[str, Any]) -> str:
    """Write JSON in letters of any script; escaped where one is no letter but half of one.

    Raises:
        ConfigurationError: Something in it is none of JSON's values: a date, for example.
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            "tools", value, "tools and calls whose values are JSON's", remedy=f"{error}."
        ) from error
    return text if is_whole_text(text) else json.dumps(value)


def plain_result(message: Message) -> Message:
    """Return the result of a call as a turn of the user."""
    of = f" of {message.name}" if message.name else ""
    return Message(role="user", content=f"Result{of}: {message.content}")


def _plain_turn(message: Message) -> Message:
    if message.role == "tool":
        return plain_result(message)
    calls = [
        json_text({"name": call.name, "arguments": dict(call.arguments)})
        for call in message.tool_calls
    ]
    parts = [message.content, *calls] if message.content.strip() else calls
    return Message(role=message.role, content="\n".join(parts) if calls else message.content)
