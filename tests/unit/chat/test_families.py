"""Every conversation is told whole by the templates of every family, or refused as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from selfeval_backend.chat import ChatTemplate, Message, ToolCall, ToolSpec
from selfeval_backend.errors import ConfigurationError, ModelFilesError
from tests.chat_templates import FAMILIES, chat_of

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

ADD = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {}})


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=text, tool_calls=calls)


def result(text: str, call_id: str | None = None, name: str | None = None) -> Message:
    return Message(role="tool", content=text, tool_call_id=call_id, name=name)


def call(call_id: str, number: int = 7) -> ToolCall:
    return ToolCall(id=call_id, name="add", arguments={"addend": number})


ONE = [user("Q1"), assistant("", call("call_0a1b2c3d4e5f")), result("R1", "call_0a1b2c3d4e5f")]
CONVERSATIONS: dict[str, list[Message]] = {
    "a question": [user("Q1")],
    "a system prompt": [system("S1"), user("Q1")],
    "a system prompt of two turns": [system("S1"), user("Q1"), assistant("A1"), user("Q2")],
    "two system prompts": [system("S1"), system("S2"), user("Q1")],
    "a system prompt further on": [user("Q1"), assistant("A1"), system("S1"), user("Q2")],
    "one in front and one further on": [
        *(system("S1"), user("Q1"), assistant("A1"), system("S2"), user("Q2")),
    ],
    "a system prompt at the end": [user("Q1"), assistant("A1"), system("S1")],
    "a system prompt, and the assistant last": [system("S1"), user("Q1"), assistant("A1")],
    "a system prompt between two of the user": [user("Q1"), system("S1"), user("Q2")],
    "a system prompt before the assistant": [user("Q1"), system("S1"), assistant("A1"), user("Q2")],
    "a system prompt alone": [system("S1")],
    "the assistant begins": [assistant("A1"), user("Q1")],
    "the assistant begins behind the system": [system("S1"), assistant("A1"), user("Q1")],
    "two of the user": [user("Q1"), user("Q2")],
    "two of the assistant": [user("Q1"), assistant("A1"), assistant("A2"), user("Q2")],
    "a call": ONE,
    "a call behind a system prompt": [system("S1"), *ONE],
    "two rounds": [*ONE, assistant("", call("call_ffffff")), result("R2", "call_ffffff")],
    "two rounds, answered": [
        *ONE,
        *(assistant("A1"), user("Q2"), assistant("", call("c2")), result("R2", "c2")),
        *(assistant("A2"), user("Q3")),
    ],
    "text beside a call": [
        *(user("Q1"), assistant("T1", call("a")), result("R1", "a"), assistant("A1"), user("Q2")),
    ],
    "two calls": [user("Q1"), assistant("", call("a"), call("b", 8)), *map(result, ("R1", "R2"))],
    "text beside two calls": [
        *(user("Q1"), assistant("T1", call("a"), call("b")), result("R2", "b"), result("R1", "a")),
        *(assistant("A1"), user("Q2")),
    ],
    "the same id twice": [
        *(user("Q1"), assistant("", call("call_0")), result("R1", "call_0")),
        *(assistant("", call("call_0", 8)), result("R2", "call_0")),
    ],
    "no ids": [user("Q1"), assistant("", call("")), result("R1")],
    "the user behind a result": [*ONE, user("Q2")],
    "a result that lost its call": [user("Q1"), result("R1", "call_gone", "add"), user("Q2")],
    "a result that begins": [result("R1", "call_gone"), user("Q2")],
    "an empty turn of the assistant": [user("Q1"), assistant(""), user("Q2")],
}


@cache
def family(name: str) -> ChatTemplate:
    return chat_of(FAMILIES[name])


def said(messages: Sequence[Message]) -> list[str]:
    return [m.content for m in messages if m.content]


def told(chat: ChatTemplate, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
    return chat.decode(chat.prompt_ids(messages, tools), keep_special_tokens=True)


@pytest.mark.parametrize("tools", [(), (ADD,)], ids=["", "with tools"])
@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_was_said_is_told_once(name: str, tools: tuple[ToolSpec, ...]) -> None:
    chat = family(name)
    for conversation, messages in CONVERSATIONS.items():
        text = told(chat, messages, tools)
        lost = [part for part in said(messages) if text.count(part) != 1]
        calls = [each for message in messages for each in message.tool_calls]
        # As JSON, and not as Python writes it, or as JSON within JSON.
        assert (conversation, lost) == (conversation, [])
        assert (conversation, text.count('"addend"')) == (conversation, len(calls))
        assert '\\"addend' not in text


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_said_by_turns_stays_in_order(name: str) -> None:
    for messages in CONVERSATIONS.values():
        if any("R2" in m.content for m in messages):
            continue  # results of one turn stand in the order of its calls
        text = told(family(name), messages)
        places = [text.index(m.content) for m in messages if m.content and m.role != "system"]
        assert places == sorted(places)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_and_its_result_have_one_id(name: str) -> None:
    chat = family(name)
    habits = chat.habits.calls(with_tools=True) if chat.shows_tools else None
    if habits is None or habits.any_id:
        return
    text = told(chat, CONVERSATIONS["the same id twice"], [ADD])
    first, second = (piece.split('"')[0] for piece in text.split('"id": "')[1:])
    assert first != second
    assert [piece.split('"')[0] for piece in text.split('"call_id": "')[1:]] == [first, second]


def test_the_same_conversation_has_the_same_prompt() -> None:
    for name in FAMILIES:
        messages = CONVERSATIONS["no ids"]
        assert told(chat_of(FAMILIES[name]), messages) == told(family(name), messages)


def test_what_a_template_takes_is_left_as_it_is() -> None:
    for name in ("chatml", "qwen 2.5", "qwen 3", "deepseek 3.1"):
        for conversation in ("two of the user", "the assistant begins", "two system prompts"):
            turns = [{"role": m.role, "content": m.content} for m in CONVERSATIONS[conversation]]
            as_it_is = family(name).tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
            assert told(family(name), CONVERSATIONS[conversation]) == as_it_is


def test_system_text_goes_to_the_first_turn_of_the_user() -> None:
    text = told(family("gemma 2"), CONVERSATIONS["a system prompt of two turns"])
    assert text.startswith("<start_of_turn>user\nS1\n\nQ1<end_of_turn>\n")
    text = told(family("mistral 0.1"), CONVERSATIONS["a system prompt further on"])
    assert text == "[INST] Q1 [/INST]A1</s>[INST] S1\n\nQ2 [/INST]"


def test_a_system_prompt_that_is_lost_in_silence_is_joined_too() -> None:
    text = told(family("phi 3"), CONVERSATIONS["a system prompt"])
    assert text == "<|user|>\nS1\n\nQ1<|end|>\n<|assistant|>\n"


def test_a_result_is_named_after_its_call() -> None:
    assert "<|tool|>add: R1" in told(family("text arguments"), ONE)
    assert "Result of add: R1" in told(family("chatml"), ONE)
    twice = CONVERSATIONS["the same id twice"]
    assert told(family("text arguments"), twice).count("<|tool|>add: ") == 2


def test_a_turn_of_calls_alone_has_the_content_that_its_template_looks_for() -> None:
    text = told(family("deepseek r1"), ONE)
    assert '<|call|>function<|sep|>add\n```json\n{"addend": 7}\n```<|/call|>' in text


def test_several_calls_are_told_one_after_the_other_where_a_turn_takes_one() -> None:
    text = told(family("llama 3.1"), CONVERSATIONS["text beside two calls"], [ADD])
    first, second = text.split('"parameters": {"addend": 7}')[1:]
    assert "R1" in first and "R2" in second


def test_the_assistants_first_turn_is_not_taken_for_the_users() -> None:
    text = told(family("llama 3.1"), CONVERSATIONS["the assistant begins"], [ADD])
    assert "assistant<|end_header_id|>\n\nA1<|eot_id|>" in text


FAILING = {
    "{{ raise_exception('Nobody may speak') }}": "Nobody may speak",
    "{{ 'a' + 1 }}": "TypeError",
    "{{ nothing.of.it }}": "UndefinedError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ {}['a']['b'] }}": "UndefinedError",
    "{{ messages[0].content.index('zebra') }}": "ValueError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{{ messages.__class__.__mro__ }}": "SecurityError",
    "{% if %}": "TemplateSyntaxError",
    "{{ messages | no_such_filter }}": "TemplateAssertionError",
    "{% include 'other' %}": "no loader",
    "{{ messages[0] | tojson(indent='a', sort_keys=1, other=2) }}": "TypeError",
}


@pytest.mark.parametrize("template", FAILING)
def test_whatever_a_template_raises_is_typed(template: str) -> None:
    chat = chat_of(template)
    for asked, tools in ((ONE, [ADD]), (CONVERSATIONS["a system prompt"], [])):
        with pytest.raises(ConfigurationError, match="expected a conversation that") as caught:
            chat.prompt_ids(asked, tools)
        assert caught.value.field == "messages"
        assert FAILING[template] in (caught.value.remedy or "")
    for closes_thought in (True, False):
        with pytest.raises(ModelFilesError, match="test: its chat template") as refused:
            chat.follow_up_ids("Again?", closes_thought=closes_thought)
        assert FAILING[template] in str(refused.value)


def test_templates_by_name_without_a_default_are_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        chat_of({"rag": "{{ messages }}"}).prompt_ids([user("Q1")])
    assert "no default" in (caught.value.remedy or "")


def test_what_fits_no_call_of_the_template_is_plain_in_both_turns() -> None:
    # It shows tools, and has no words for calls: the model is told of both in one form.
    template = "{{ tools | tojson if tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = chat_of(template)
    assert not chat.shows_tools
    text = told(chat, ONE, [ADD])
    assert 'To call a tool answer with JSON only: {"name": ...' in text
    assert '{"name": "add", "arguments": {"addend": 7}}' in text


def test_tools_stand_in_no_turn_of_the_assistant() -> None:
    text = told(family("chatml"), CONVERSATIONS["the assistant begins"], [ADD])
    assert text.startswith("<|im_start|>user\nTools:\n")
