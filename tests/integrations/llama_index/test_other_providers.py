"""A thread that began with another provider's LLM goes on here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from aic_integrations.llama_index.messages import to_messages
from selfeval_backend.chat import Message, ToolCall
from selfeval_backend.errors import ConfigurationError

CACHE = CachePoint(cache_control=CacheControl(type="ephemeral"))
CITED = CitationBlock(
    cited_content=TextBlock(text="forty-one"), source="s", title="t", additional_location_info={}
)


def told(*messages: ChatMessage) -> list[Message]:
    """Return the turns before the last one."""
    return [*to_messages([*messages, ChatMessage("Again?")])[:-1]]


def test_of_an_answer_its_text_stays() -> None:
    blocks = [
        ThinkingBlock(content="Hm.", additional_information={"signature": "c2ln"}),
        ThinkingBlock(content=None),
        TextBlock(text="41."),
        CITED,
        CACHE,
    ]
    answer = ChatMessage(role="assistant", content=blocks)
    assert told(answer) == [Message(role="assistant", content="41.")]


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_what_may_be_cited_is_text(role: str) -> None:
    citable = CitableBlock(
        title="t", source="s", content=[TextBlock(text="a"), TextBlock(text="b")]
    )
    (turn,) = told(ChatMessage(role=role, content=[citable, CACHE, CITED, TextBlock(text="c")]))
    assert turn.content == "a\nb\nforty-one\nc"


@pytest.mark.parametrize(
    "call",
    [
        {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "x", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": "x", "type": "tool_use", "name": "add", "input": {"a": 1}},
        SimpleNamespace(id="x", function=SimpleNamespace(name="add", arguments='{"a": 1}')),
    ],
    ids=["openai", "ollama", "anthropic", "an object"],
)
def test_calls_beside_the_blocks_are_calls(call: Any) -> None:
    asked = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    (turn,) = told(asked)
    assert turn.tool_calls == (ToolCall(id="x", name="add", arguments={"a": 1}),)


def test_calls_in_blocks_are_not_read_twice() -> None:
    block = ToolCallBlock(tool_call_id="x", tool_name="add", tool_kwargs={"a": 1})
    beside = [{"id": "x", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    asked = ChatMessage(role="assistant", content=[block], additional_kwargs={"tool_calls": beside})
    assert len(told(asked)[0].tool_calls) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [({"id": "x"}, "ToolCallBlock"), ({"function": {"name": "add", "arguments": "{"}}, "JSON")],
)
def test_what_is_no_call_is_refused_by_place(call: Any, says: str) -> None:
    asked = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    with pytest.raises(ConfigurationError, match=says) as caught:
        told(asked)
    assert caught.value.field.startswith("messages[0].additional_kwargs['tool_calls'][0]")
