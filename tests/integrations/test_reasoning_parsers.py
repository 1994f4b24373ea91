"""vLLM's own reasoning parsers, by name."""

from __future__ import annotations

import pytest

from selfeval_backend.chat import ChatTemplate, ReasoningForm, load_reasoning_parser
from selfeval_backend.errors import ConfigurationError
from tests.byte_tokenizer import byte_tokenizer

pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of vLLM's own dependencies
]


@pytest.fixture(scope="module")
def chat() -> ChatTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return ChatTemplate(tokenizer, name="double")


@pytest.mark.parametrize("name", ["deepseek_r1", "qwen3", "think"])
def test_reasoning_stands_in_front(chat: ChatTemplate, name: str) -> None:
    form = ReasoningForm(parser=load_reasoning_parser(name, chat))
    parsed = form.parse("<think>Hm, 3.</think>\n\n41")
    assert (parsed.reasoning, parsed.text, parsed.valid) == ("Hm, 3.", "41", True)
    cut = form.parse("<think>Hm, 3.")
    assert (cut.reasoning, cut.text, cut.valid) == ("Hm, 3.", "", False)


def test_vllms_parsers_read_a_whole(chat: ChatTemplate) -> None:
    form = ReasoningForm(parser=load_reasoning_parser("qwen3", chat))
    assert form.keeps_special_tokens
    assert form.settled("<think>a</think>b") == form.settled_reasoning("<think>a</think>b") == ""


@pytest.mark.parametrize(("name", "says"), [("think_hard", "qwen3"), ("mistral", "vLLM says")])
def test_one_that_does_not_go_with_the_model_is_refused(
    chat: ChatTemplate, name: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_reasoning_parser(name, chat)
    assert caught.value.field == "reasoning_parser"
