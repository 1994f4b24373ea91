"""vLLM's own tool parsers, by name."""

from __future__ import annotations

import pytest

from selfeval_backend.chat import ChatTemplate, ToolForm, ToolSpec, load_tool_parser
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import REFERENCE_FOLDER

pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of vLLM's own dependencies
]

ADD = ToolSpec(
    name="add",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
)


@pytest.fixture(scope="module")
def chat() -> ChatTemplate:
    return ChatTemplate.load(REFERENCE_FOLDER)


@pytest.mark.parametrize(
    ("name", "text", "rest"),
    [
        (
            "hermes",
            'Well.<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
            "Well.",
        ),
        ("pythonic", "[add(a=1)]", ""),
    ],
)
def test_a_call_in_a_models_own_words(chat: ChatTemplate, name: str, text: str, rest: str) -> None:
    form = ToolForm(tools=(ADD,), parser=load_tool_parser(name, chat))
    assert form.keeps_special_tokens
    parsed = form.parse(text)
    assert [(call.name, dict(call.arguments)) for call in parsed.tool_calls] == [("add", {"a": 1})]
    assert parsed.text == rest
    assert parsed.valid
    assert form.parse("Three.").text == "Three."
    assert form.parse("Three.").tool_calls == ()


def test_a_call_that_vllm_finds_is_checked_too(chat: ChatTemplate) -> None:
    form = ToolForm(tools=(ADD,), parser=load_tool_parser("hermes", chat))
    parsed = form.parse('<tool_call>{"name": "sub", "arguments": {}}</tool_call>')
    assert not parsed.valid
    assert parsed.invalid_tool_calls[0].name == "sub"


def test_a_parser_for_another_model_is_refused(chat: ChatTemplate) -> None:
    with pytest.raises(ConfigurationError, match="python_tag") as caught:
        load_tool_parser("llama3_json", chat)
    assert caught.value.field == "tool_parser"


def test_an_unknown_parser_is_answered_with_those_there_are(chat: ChatTemplate) -> None:
    with pytest.raises(ConfigurationError, match="hermes") as caught:
        load_tool_parser("hermit", chat)
    assert caught.value.field == "tool_parser"
