"""A model that thinks before it answers, behind LlamaIndex's LLM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from aic_integrations.llama_index import AdaptiveLLM, collect_best_of_n
from selfeval_backend.engine.scripted import ScriptedChat, StreamCall
from selfeval_backend.errors import ConfigurationError
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conftest import engine_of

CHAT = ScriptedChat()
THOUGHT = "<think>\nThree and nineteen, hm.\n</think>\n\nForty-one."
REASONING = "Three and nineteen, hm."
ASKED = [ChatMessage("Make 41.")]


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


DOUBLE = FunctionTool.from_defaults(double)


class A(BaseModel):
    """An object."""

    a: int


def thinker(make_model: ModelFactory, *responses: Any, **settings: Any) -> AdaptiveLLM:
    model = make_model(list(responses), repeat=True, name="double", chunk_tokens=4)
    given = {"max_samples": len(responses), "adaptive": False, "seed": 5, **settings}
    return AdaptiveLLM.from_model(model, **{"reasoning_parser": "think", **given})


@pytest.fixture
def llm(make_model: ModelFactory) -> AdaptiveLLM:
    return thinker(make_model, CHAT.response(THOUGHT, 0.9))


def by_chat(llm: AdaptiveLLM) -> list[ChatResponse]:
    return [llm.chat(ASKED)]


def by_achat(llm: AdaptiveLLM) -> list[ChatResponse]:
    return [asyncio.run(llm.achat(ASKED))]


def by_stream_chat(llm: AdaptiveLLM) -> list[ChatResponse]:
    return list(llm.stream_chat(ASKED))


def by_astream_chat(llm: AdaptiveLLM) -> list[ChatResponse]:
    async def collect() -> list[ChatResponse]:
        return [response async for response in await llm.astream_chat(ASKED)]

    return asyncio.run(collect())


def by_complete(llm: AdaptiveLLM) -> list[CompletionResponse]:
    return [llm.complete("Make 41.")]


def by_acomplete(llm: AdaptiveLLM) -> list[CompletionResponse]:
    return [asyncio.run(llm.acomplete("Make 41."))]


def by_stream_complete(llm: AdaptiveLLM) -> list[CompletionResponse]:
    return list(llm.stream_complete("Make 41."))


def by_astream_complete(llm: AdaptiveLLM) -> list[CompletionResponse]:
    async def collect() -> list[CompletionResponse]:
        return [response async for response in await llm.astream_complete("Make 41.")]

    return asyncio.run(collect())


Ask = Callable[[AdaptiveLLM], list[Any]]
every_chat = pytest.mark.parametrize("ask", [by_chat, by_achat, by_stream_chat, by_astream_chat])
every_stream = pytest.mark.parametrize("ask", [by_stream_chat, by_astream_chat])
every_completion = pytest.mark.parametrize(
    "ask", [by_complete, by_acomplete, by_stream_complete, by_astream_complete]
)


@every_chat
def test_what_it_thought_is_a_block_and_no_content(llm: AdaptiveLLM, ask: Ask) -> None:
    with collect_best_of_n() as collected:
        response = ask(llm)[-1]
    assert response.message.content == "Forty-one."
    assert response.message.blocks == [
        ThinkingBlock(content=REASONING),
        TextBlock(text="Forty-one."),
    ]
    assert response.additional_kwargs["best_of_n"]["valid"] is True
    assert response.raw["usage"]["completion_tokens"] == len(THOUGHT) + 1
    assert [call.text for call in collected.calls] == ["Forty-one."]


@every_chat
def test_it_is_content_where_nobody_asks(make_model: ModelFactory, ask: Ask) -> None:
    plain = thinker(make_model, CHAT.response(THOUGHT, 0.9), reasoning_parser=None)
    assert ask(plain)[-1].message.blocks == [TextBlock(text=THOUGHT)]


@every_completion
def test_a_completion_has_none_of_it_in_its_text(llm: AdaptiveLLM, ask: Ask) -> None:
    steps = ask(llm)
    assert steps[-1].text == "Forty-one."
    assert steps[-1].additional_kwargs["thinking"] == REASONING
    assert not any("hm" in step.text for step in steps)
    if len(steps) > 1:
        assert "".join(step.delta for step in steps) == "Forty-one."


@every_stream
def test_a_stream_shows_it_as_it_comes_and_the_answer_behind_it(llm: AdaptiveLLM, ask: Ask) -> None:
    steps = ask(llm)
    thoughts = [step.additional_kwargs.get("thinking_delta", "") for step in steps]
    deltas = [step.delta for step in steps]
    assert ("".join(thoughts), "".join(deltas)) == (REASONING, "Forty-one.")
    assert sum(map(bool, thoughts)) > 2 and sum(map(bool, deltas)) > 1
    last_thought = max(place for place, text in enumerate(thoughts) if text)
    assert not any(deltas[:last_thought])
    so_far = ""
    for thought, step in zip(thoughts, steps, strict=True):
        so_far += thought
        blocks = step.message.blocks
        found = [block.content for block in blocks if isinstance(block, ThinkingBlock)]
        assert found == ([so_far] if so_far else [])
    assert all(type(thought) is str for thought in thoughts)


@every_chat
def test_a_sample_that_never_comes_to_an_answer_does_not_win(
    make_model: ModelFactory, ask: Ask
) -> None:
    lost = CHAT.response("<think>and so on", 0.99, finish_reason="length")
    response = ask(thinker(make_model, lost, CHAT.response(THOUGHT, 0.6)))[-1]
    assert response.message.content == "Forty-one."
    assert response.additional_kwargs["best_of_n"]["num_invalid"] == 1


@every_chat
def test_where_none_comes_to_an_answer_there_is_no_content(
    make_model: ModelFactory, ask: Ask
) -> None:
    lost = CHAT.response("<think>and so on", 0.5, finish_reason="length")
    message = ask(thinker(make_model, lost))[-1].message
    assert message.blocks == [ThinkingBlock(content="and so on"), TextBlock(text="")]


def test_it_may_think_before_it_calls_a_tool(make_model: ModelFactory) -> None:
    call = '<think>Twice four.</think>\n{"name": "double", "arguments": {"number": 4}}'
    llm = thinker(make_model, CHAT.response(call, 0.9))
    thought, called = llm.chat_with_tools([DOUBLE], user_msg="Double 4.").message.blocks
    assert thought == ThinkingBlock(content="Twice four.")
    assert isinstance(called, ToolCallBlock)
    assert (called.tool_name, called.tool_kwargs) == ("double", {"number": 4})


def test_under_a_grammar_it_does_not_think(make_model: ModelFactory) -> None:
    llm = thinker(make_model, CHAT.response('{"name": "A", "arguments": {"a": 1}}', 0.9))
    assert llm.structured_predict(A, PromptTemplate("x")) == A(a=1)


def test_it_is_not_shown_again(llm: AdaptiveLLM) -> None:
    first = llm.chat(ASKED).message
    llm.chat([*ASKED, first, ChatMessage("Again.")])
    prompt = CHAT.decode(engine_of(llm).stream_calls[-1].prompt_ids)
    assert prompt == "Make 41.Forty-one.Again."


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LlamaIndex's use of pydantic
async def test_an_agent_streams_both(make_model: ModelFactory) -> None:
    def script(call: StreamCall) -> Any:
        del call
        return CHAT.response(THOUGHT, 0.9)

    model = make_model(script, chunk_tokens=4)
    llm = AdaptiveLLM.from_model(model, max_samples=1, reasoning_parser="think")
    memory = ChatMemoryBuffer.from_defaults(token_limit=10_000, tokenizer_fn=str.split)
    handler = FunctionAgent(tools=[DOUBLE], llm=llm).run("Make 41.", memory=memory)
    steps = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
    assert str(await handler) == "Forty-one."
    assert "".join(step.thinking_delta or "" for step in steps) == REASONING
    assert "".join(step.delta for step in steps) == "Forty-one."


@every_chat
def test_an_unknown_parser_is_refused_by_name(make_model: ModelFactory, ask: Ask) -> None:
    llm = thinker(make_model, CHAT.response(THOUGHT, 0.9), reasoning_parser="thinking")
    with pytest.raises(ConfigurationError) as caught:
        ask(llm)
    assert caught.value.field == "reasoning_parser"
