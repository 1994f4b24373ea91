"""Reasoning told from answers: whole, and as a response grows."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.chat import (
    ChatTemplate,
    ReasoningForm,
    ToolForm,
    ToolSpec,
    load_reasoning_parser,
)
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from tests.byte_tokenizer import byte_tokenizer

TURNS = "{% for m in messages %}{{ m.content }}{% endfor %}>"
PARTS = st.sampled_from(["<think>", "</think>", "<", "</", "think>", "a", " b", "\n", "é"])


def form(*, opened: bool = False) -> ReasoningForm:
    """Return one for a model whose prompts end with the tag, or do not."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TURNS + ("<think>\n" if opened else "")
    chat = ChatTemplate(tokenizer, name="double")
    return ReasoningForm(parser=load_reasoning_parser("think", chat))


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("<think>\nHm, 3.\n</think>\n\n41", False, "Hm, 3.", "41"),
        ("41", False, None, "41"),
        ("<think></think>41", False, None, "41"),
        ("One <think>is</think> two", False, None, "One <think>is</think> two"),
        ("Hm, 3.</think>41", True, "Hm, 3.", "41"),
        ("<think>Hm, 3.</think>41", True, "Hm, 3.", "41"),
        ("", False, None, ""),
    ],
)
def test_reasoning_stands_in_front(
    text: str, opened: bool, reasoning: str | None, answer: str
) -> None:
    parsed = form(opened=opened).parse(text)
    assert (parsed.reasoning, parsed.text, parsed.valid) == (reasoning, answer, True)


@pytest.mark.parametrize(
    ("text", "opened"),
    [("<think>Hm", False), ("<think>Hm</think>\n", False), ("Hm", True), ("<think>", False)],
)
def test_what_has_no_answer_is_none(text: str, opened: bool) -> None:
    parsed = form(opened=opened).parse(text)
    assert not parsed.valid
    assert parsed.text == ""
    assert (parsed.reasoning or "") in ("Hm", "")


@given(parts=st.lists(PARTS, max_size=12), opened=st.booleans())
def test_what_was_shown_is_never_taken_back(parts: list[str], opened: bool) -> None:
    whole_form = FORMS[opened]
    whole = whole_form.parse("".join(parts).strip())
    for length in range(len(parts) + 1):
        so_far = "".join(parts[:length])
        assert (whole.reasoning or "").startswith(whole_form.settled_reasoning(so_far).strip())
        assert whole.text.strip().startswith(whole_form.settled(so_far).strip())


FORMS = {opened: form(opened=opened) for opened in (False, True)}


def test_tools_are_called_behind_it() -> None:
    tools = (ToolSpec(name="add"),)
    both = ReasoningForm(parser=form().parser, inner=ToolForm(tools=tools))
    assert both.shown == tools and both.grammar is None
    parsed = both.parse('<think>{"x": 1}</think>\n{"name": "add", "arguments": {}}')
    assert [call.name for call in parsed.tool_calls] == ["add"]
    assert parsed.reasoning == '{"x": 1}'
    assert both.settled('<think>x</think>\n{"na') == ""
    assert both.settled("<think>x</think>\nWell") == "Well"


def test_vllms_parsers_need_a_tokenizer() -> None:
    with pytest.raises(ConfigurationError, match="think") as caught:
        load_reasoning_parser("qwen3", ScriptedChat())
    assert caught.value.field == "reasoning_parser"


def test_vllms_parsers_need_vllm_but_for_those_that_are_read_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.reasoning", None)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TURNS
    chat = ChatTemplate(tokenizer, name="double")
    with pytest.raises(MissingDependencyError, match=r"\[vllm\]"):
        load_reasoning_parser("step3", chat)
    qwen3, r1 = (load_reasoning_parser(name, chat) for name in ("qwen3", "deepseek_r1"))
    assert qwen3.split("<think>Hm.</think>41") == r1.split("Hm.</think>41")
    mistral = load_reasoning_parser("mistral", chat)
    assert mistral.split("[THINK]Hm.[/THINK]41").answer == "41"
