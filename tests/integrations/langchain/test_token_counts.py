"""Tokens are counted in the model's own, by its own template, and nobody else is asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain_core.language_models import base as base_module
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)

from aic_integrations.langchain import AdaptiveLLM, ChatAdaptive, ConfidenceGateChatModel
from aic_integrations.langchain.messages import to_messages
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, ModelFilesError
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.model import shared as shared_module
from tests.conftest import ModelFactory

CHAT = ScriptedChat()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where LangChain's own counting is asked, which downloads another model's tokenizer."""

    def fail() -> None:
        pytest.fail("another model's tokenizer was asked for")

    monkeypatch.setattr(base_module, "get_tokenizer", fail)


@pytest.fixture(params=["chat model", "completion model", "gate"])
def counting(request: pytest.FixtureRequest, make_model: ModelFactory) -> Any:
    """Whatever LangChain may ask to count."""
    model = make_model([CHAT.response("x", 0.9)])
    if request.param == "completion model":
        return AdaptiveLLM.from_model(model)
    chat = ChatAdaptive.from_model(model)
    return chat if request.param == "chat model" else ConfidenceGateChatModel(chat, threshold=0.5)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_text_is_counted(counting: Any) -> None:
    assert counting.get_token_ids("né") == [ord("n"), ord("é")]
    assert counting.get_num_tokens("forty-one") == 9


def test_messages_are_counted_as_they_stand_in_a_prompt(counting: Any) -> None:
    messages: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("Make 41.")]
    prompt = CHAT.prompt_ids(to_messages(messages))
    assert counting.get_num_tokens_from_messages(messages) == len(prompt)


def test_tools_are_counted_too(counting: Any) -> None:
    messages: list[BaseMessage] = [HumanMessage("Make 41.")]
    without = counting.get_num_tokens_from_messages(messages)
    assert counting.get_num_tokens_from_messages(messages, tools=[add]) > without + 50


PARTS: list[list[BaseMessage]] = [
    [],
    [SystemMessage("Be brief.")],
    [AIMessage("")],
    [AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c"}])],
    [ToolMessage("3", tool_call_id="c")],
    [HumanMessage("")],
    [HumanMessage("a"), AIMessage("b")],
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_of_a_conversation_is_counted(counting: Any, part: list[BaseMessage]) -> None:
    assert (counting.get_num_tokens_from_messages(part) > 0) == bool(part)


@pytest.mark.parametrize("strategy", ["first", "last"])
@pytest.mark.parametrize("allow_partial", [True, False])
def test_messages_are_trimmed_to_the_models_own_tokens(
    counting: Any, strategy: Any, allow_partial: bool
) -> None:
    conversation = [HumanMessage("a" * 30), AIMessage("b" * 30), HumanMessage("c" * 30)]
    kept = trim_messages(
        conversation,
        max_tokens=70,
        token_counter=counting,
        strategy=strategy,
        allow_partial=allow_partial,
    )
    assert len(kept) == 2
    assert counting.get_num_tokens_from_messages(kept) <= 70


def test_what_cannot_be_read_is_not_counted(counting: Any) -> None:
    image = HumanMessage([{"type": "image", "url": "x"}])
    with pytest.raises(ConfigurationError, match="send text"):
        counting.get_num_tokens_from_messages([image])
    with pytest.raises(ConfigurationError, match=r"tools\[0\]"):
        counting.get_num_tokens_from_messages([HumanMessage("a")], tools=[3])


def test_ones_own_way_to_count_comes_first(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response("x", 0.9)])
    chat = ChatAdaptive.from_model(model, custom_get_token_ids=lambda text: [7])
    assert chat.get_token_ids("forty-one") == [7]
    gate = ConfidenceGateChatModel(
        ChatAdaptive.from_model(model), threshold=0.5, custom_get_token_ids=lambda text: [7]
    )
    assert gate.get_token_ids("forty-one") == [7]
    assert gate.get_num_tokens("forty-one") == 1


def test_a_gate_counts_the_tools_that_are_bound(make_model: ModelFactory) -> None:
    chat = ChatAdaptive.from_model(make_model([CHAT.response("x", 0.9)]))
    gate: Any = ConfidenceGateChatModel(chat, threshold=0.5)
    bound = gate.bind_tools([add]).bound
    asked: list[BaseMessage] = [HumanMessage("Make 41.")]
    with_tools = chat.get_num_tokens_from_messages(asked, tools=[add])
    assert bound.get_num_tokens_from_messages(asked) == with_tools
    assert bound.get_num_tokens_from_messages(asked, tools=[]) < with_tools


def test_a_gate_asks_another_model_in_its_own_way() -> None:
    class Own(GenericFakeChatModel):
        def get_num_tokens(self, text: str) -> int:
            return 5

        def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
            return 11

    gate = ConfidenceGateChatModel(Own(messages=iter([])), threshold=0.5)
    assert gate.get_num_tokens("x") == 5
    assert gate.get_num_tokens_from_messages([HumanMessage("x")]) == 11


@pytest.mark.slow  # the reference model's tokenizer
def test_counting_needs_no_weights_and_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    began, counted = threading.Event(), threading.Event()

    def load(*_: Any, **__: Any) -> None:
        began.set()
        counted.wait(timeout=120)
        raise ModelFilesError("the test has ended")

    monkeypatch.setattr(shared_module, "load_model", load)
    llm = ChatAdaptive(base_url="http://localhost:1/v1", model_files=str(REFERENCE_FOLDER))

    def ask() -> None:
        with pytest.raises(ModelFilesError, match="the test has ended"):
            llm.invoke("Make 41.")

    asking = threading.Thread(target=ask)
    asking.start()
    assert began.wait(timeout=60)
    assert llm.get_num_tokens("Make 41.") > 1
    assert asking.is_alive()
    counted.set()
    asking.join()


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelFilesError, match="no folder /nowhere"):
        ChatAdaptive(model="/nowhere").get_num_tokens("x")
