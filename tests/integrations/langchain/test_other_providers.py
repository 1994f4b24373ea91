"""A thread that began with another provider goes on here."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from aic_integrations.langchain.messages import to_messages
from selfeval_backend.chat import Message, ToolCall
from selfeval_backend.errors import ConfigurationError

AGAIN = HumanMessage("Again?")

THOUGHTS_AND_WORK: dict[str, list[dict[str, Any]]] = {
    "anthropic": [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [{"type": "web_search_result", "url": "https://example.org", "title": "t"}],
        },
        {"type": "mcp_tool_use", "id": "m", "name": "n", "server_name": "s", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "m", "content": [{"type": "text", "text": "?"}]},
        {"type": "bash_code_execution_tool_result", "tool_use_id": "b", "content": {}},
        {"type": "container_upload", "file_id": "f"},
        {"type": "input_json_delta", "partial_json": "{", "index": 1},
    ],
    "openai": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "file_search_call", "id": "fs_1", "queries": [], "results": None},
        {"type": "code_interpreter_call", "id": "ci_1", "code": "1 + 1", "outputs": []},
        {"type": "computer_call", "id": "c", "action": {"type": "click"}},
        {"type": "mcp_list_tools", "id": "m", "tools": []},
        {"type": "mcp_approval_request", "id": "m", "name": "n", "arguments": "{}"},
        {"type": "tool_search_output", "id": "t", "tools": []},
        {"type": "custom_tool_call", "id": "c", "name": "n", "input": "x"},
        {"type": "local_shell_call_output", "id": "l", "output": "x"},
    ],
    "gemini": [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Hm, I think.", "thought": True},
        {"type": "executable_code", "executable_code": "1 + 1", "language": "PYTHON"},
        {"type": "code_execution_result", "code_execution_result": "2", "outcome": 1},
    ],
    "bedrock": [
        {"type": "reasoning_content", "reasoning_content": {"text": "Hm.", "signature": "s"}},
        {"reasoningContent": {"reasoningText": {"text": "Hm."}}},
        {"cachePoint": {"type": "default"}},
    ],
    "standard": [
        {"type": "reasoning", "reasoning": "Hm."},
        {"type": "server_tool_call", "id": "s", "name": "web_search", "args": {}},
        {"type": "server_tool_call_chunk", "id": "s", "name": "web_search", "args": ""},
        {"type": "server_tool_result", "tool_call_id": "s", "status": "success", "output": "?"},
        {"type": "non_standard", "value": {"type": "redacted_thinking", "data": "c2VjcmV0"}},
    ],
}


def told(*messages: BaseMessage) -> list[Message]:
    """Return the turns before the last one."""
    return [*to_messages([*messages, AGAIN])[:-1]]


@pytest.mark.parametrize("provider", THOUGHTS_AND_WORK)
def test_the_text_stays_and_the_rest_is_no_part_of_it(provider: str) -> None:
    around = [{"type": "text", "text": "It is "}, {"type": "text", "text": "41."}]
    blocks = [around[0], *THOUGHTS_AND_WORK[provider], around[1]]
    for message in (AIMessage(blocks), AIMessageChunk(blocks)):
        assert told(message) == [Message(role="assistant", content="It is 41.")]


@pytest.mark.parametrize("provider", ["anthropic", "openai", "google_genai", "bedrock_converse"])
def test_a_thread_goes_on_in_standard_blocks_too(provider: str) -> None:
    written: list[str | dict[str, Any]] = [
        *({"openai": THOUGHTS_AND_WORK["openai"][:2]}.get(provider, [])),
        *({"anthropic": THOUGHTS_AND_WORK["anthropic"][:4]}.get(provider, [])),
        *({"google_genai": THOUGHTS_AND_WORK["gemini"][:1]}.get(provider, [])),
        *({"bedrock_converse": THOUGHTS_AND_WORK["bedrock"][:1]}.get(provider, [])),
        {"type": "text", "text": "41."},
    ]
    message = AIMessage(written, response_metadata={"model_provider": provider})
    standard = AIMessage(content_blocks=message.content_blocks)
    assert told(message) == told(standard) == [Message(role="assistant", content="41.")]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "output_text", "text": "41.", "annotations": [{"type": "url_citation"}]}, "41."),
        ({"type": "text", "text": "41.", "citations": [{"cited_text": "forty-one"}]}, "41."),
        ({"type": "text", "text": "41.", "cache_control": {"type": "ephemeral"}}, "41."),
        ({"type": "refusal", "refusal": "I cannot."}, "I cannot."),
        ({"text": "41."}, "41."),
        ({"type": "text-plain", "text": "41.", "mime_type": "text/plain"}, "41."),
        ({"type": "non_standard", "value": {"type": "output_text", "text": "41."}}, "41."),
    ],
)
def test_text_is_text_whatever_its_block_is_called(block: dict[str, Any], text: str) -> None:
    assert told(AIMessage([block])) == [Message(role="assistant", content=text)]


@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage])
def test_so_it_is_of_people(kind: type[BaseMessage]) -> None:
    blocks: list[str | dict[str, Any]] = [
        {"type": "input_text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
        {"cachePoint": {"type": "default"}},
        {"type": "document", "source": {"type": "text", "data": "c", "media_type": "text/plain"}},
    ]
    (turn,) = told(kind(content=blocks))
    assert turn.content == "abc"


def test_a_refusal_beside_the_content_is_what_was_said() -> None:
    refused = AIMessage("", additional_kwargs={"refusal": "I cannot."})
    assert told(refused) == [Message(role="assistant", content="I cannot.")]


def test_a_search_result_of_a_tool_is_text() -> None:
    found = {"type": "search_result", "content": [{"type": "text", "text": "41"}], "source": "s"}
    (turn,) = told(ToolMessage([found], tool_call_id="t"))
    assert (turn.role, turn.content) == ("tool", "41")


UNREADABLE: list[tuple[type[BaseMessage], dict[str, Any], str]] = [
    (kind, block, name)
    for kind in (HumanMessage, AIMessage)
    for block, name in (
        ({"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}, "image_url"),
        ({"type": "image", "url": "https://example.org/x.png"}, "image"),
        ({"type": "input_image", "image_url": "x"}, "input_image"),
        ({"type": "audio", "base64": "eA=="}, "audio"),
        ({"type": "input_audio", "input_audio": {}}, "input_audio"),
        ({"type": "video", "url": "x"}, "video"),
        ({"type": "file", "file_id": "x"}, "file"),
        ({"type": "media", "data": "x"}, "media"),
        ({"type": "document", "source": {"type": "base64", "data": "eA=="}}, "document"),
        ({"type": "image_generation_call", "result": "eA=="}, "image_generation_call"),
        ({"type": "non_standard", "value": {"type": "image"}}, "image"),
        ({"image": {"format": "png"}}, "image"),
        ({}, "an empty block"),
        ({"type": "of_tomorrow", "data": 3}, "of_tomorrow"),
    )
]


@pytest.mark.parametrize(("kind", "block", "name"), UNREADABLE)
def test_what_cannot_be_read_is_refused_by_name(
    kind: type[BaseMessage], block: dict[str, Any], name: str
) -> None:
    with pytest.raises(ConfigurationError, match="send text") as caught:
        told(kind(content=["see: ", block]))
    assert caught.value.value == name
    assert caught.value.field.startswith("messages[0].content[1]")


def test_thoughts_of_people_are_none_of_ours() -> None:
    for block in (THOUGHTS_AND_WORK["anthropic"][0], THOUGHTS_AND_WORK["openai"][1]):
        with pytest.raises(ConfigurationError, match="send text"):
            told(HumanMessage([block]))


def test_calls_in_the_form_before_tools() -> None:
    call = {"name": "add", "arguments": '{"a": 1}'}
    asked = AIMessage("", additional_kwargs={"function_call": call})
    first, second = told(asked, FunctionMessage("3", name="add"))
    assert first.tool_calls == (ToolCall(id="", name="add", arguments={"a": 1}),)
    assert (second.role, second.name) == ("tool", "add")


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]"])
def test_a_broken_call_stays_what_was_written(arguments: str) -> None:
    call = {"name": "add", "arguments": arguments}
    asked = AIMessage("Well.", additional_kwargs={"function_call": call})
    assert told(asked) == [Message(role="assistant", content=f"Well.\n{arguments}")]


@pytest.mark.parametrize(
    ("role", "ours"),
    [("developer", "system"), ("human", "user"), ("ai", "assistant"), ("model", "assistant")],
)
def test_roles_that_others_call_otherwise(role: str, ours: str) -> None:
    assert told(ChatMessage("a", role=role))[0].role == ours
