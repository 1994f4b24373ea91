"""A model that thinks before it answers, behind LangChain's chat model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool

from aic_integrations.langchain import AdaptiveLLM, ChatAdaptive, ConfidenceGateChatModel
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ConfigurationError
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
THOUGHT = "<think>\nThree and nineteen, hm.\n</think>\n\nForty-one."


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def thinker(make_model: ModelFactory, *responses: Any, **settings: Any) -> ChatAdaptive:
    model = make_model(list(responses), repeat=True, name="double", chunk_tokens=4)
    given = {"max_samples": len(responses), "adaptive": False, "seed": 5, **settings}
    return ChatAdaptive.from_model(model, **{"reasoning_parser": "think", **given})


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    return thinker(make_model, CHAT.response(THOUGHT, 0.9))


def by_invoke(llm: Any) -> list[Any]:
    return [llm.invoke("Make 41.")]


def by_ainvoke(llm: Any) -> list[Any]:
    return [asyncio.run(llm.ainvoke("Make 41."))]


def by_stream(llm: Any) -> list[Any]:
    return list(llm.stream("Make 41."))


def by_astream(llm: Any) -> list[Any]:
    async def collect() -> list[AIMessageChunk]:
        return [chunk async for chunk in llm.astream("Make 41.")]

    return asyncio.run(collect())


Ask = Callable[[Any], list[Any]]
every_way = pytest.mark.parametrize("ask", [by_invoke, by_ainvoke, by_stream, by_astream])


@every_way
def test_what_it_thought_is_no_content(llm: ChatAdaptive, ask: Ask) -> None:
    message: AIMessage = reduce(add, ask(llm))
    assert message.content == "Forty-one."
    assert message.additional_kwargs["reasoning_content"] == "Three and nineteen, hm."
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    assert message.response_metadata["best_of_n"]["valid"] is True
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == len(THOUGHT) + 1


@every_way
def test_it_is_content_where_nobody_asks(make_model: ModelFactory, ask: Ask) -> None:
    plain = thinker(make_model, CHAT.response(THOUGHT, 0.9), reasoning_parser=None)
    message: AIMessage = reduce(add, ask(plain))
    assert message.content == THOUGHT
    assert "reasoning_content" not in message.additional_kwargs


@pytest.mark.parametrize("ask", [by_stream, by_astream])
def test_a_stream_shows_it_as_it_comes_and_the_answer_behind_it(
    llm: ChatAdaptive, ask: Ask
) -> None:
    chunks = ask(llm)
    thoughts = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks]
    contents = [chunk.content for chunk in chunks]
    assert sum(map(bool, thoughts)) > 2 and sum(map(bool, contents)) > 1
    last_thought = max(place for place, text in enumerate(thoughts) if text)
    assert not any(contents[:last_thought])
    assert not any("think" in text for text in [*thoughts, *contents])
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@every_way
def test_a_sample_that_never_comes_to_an_answer_does_not_win(
    make_model: ModelFactory, ask: Ask
) -> None:
    lost = CHAT.response("<think>and so on", 0.99, finish_reason="length")
    message: AIMessage = reduce(add, ask(thinker(make_model, lost, CHAT.response(THOUGHT, 0.6))))
    assert message.content == "Forty-one."
    assert message.response_metadata["best_of_n"]["num_invalid"] == 1


@every_way
def test_where_none_comes_to_an_answer_there_is_no_content(
    make_model: ModelFactory, ask: Ask
) -> None:
    lost = CHAT.response("<think>and so on", 0.5, finish_reason="length")
    message: AIMessage = reduce(add, ask(thinker(make_model, lost)))
    assert message.content == ""
    assert message.additional_kwargs["reasoning_content"] == "and so on"
    assert message.response_metadata["finish_reason"] == "length"
    assert message.response_metadata["best_of_n"]["valid"] is False


@every_way
def test_it_may_think_before_it_calls_a_tool(make_model: ModelFactory, ask: Ask) -> None:
    call = '<think>Twice four.</think>\n{"name": "double", "arguments": {"number": 4}}'
    llm = thinker(make_model, CHAT.response(call, 0.9)).bind_tools([double])
    message: AIMessage = reduce(add, ask(llm))
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("double", {"number": 4})]
    assert message.additional_kwargs["reasoning_content"] == "Twice four."
    assert message.content == ""


def test_under_a_grammar_it_does_not_think(make_model: ModelFactory) -> None:
    llm = thinker(make_model, CHAT.response('{"a": 1}', 0.9))
    schema = {"title": "A", "type": "object", "properties": {"a": {"type": "integer"}}}
    assert llm.with_structured_output(schema).invoke("x") == {"a": 1}


def test_it_is_not_shown_again(llm: ChatAdaptive) -> None:
    first = llm.invoke("Make 41.")
    blocks = AIMessage([*first.content_blocks])
    for earlier in (first, blocks):
        llm.invoke([HumanMessage("Make 41."), earlier, HumanMessage("Again.")])
        assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
        prompt = CHAT.decode(llm.backend.engine.stream_calls[-1].prompt_ids)
        assert prompt == "Make 41.Forty-one.Again."


@every_way
def test_through_a_gate(make_model: ModelFactory, ask: Ask) -> None:
    script = [CHAT.response("<think>bad</think>No.", 0.1), CHAT.response(THOUGHT, 0.9)]
    model = make_model(script, name="double")
    llm = ChatAdaptive.from_model(model, max_samples=1, reasoning_parser="think")
    gate = ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry", retry_samples=1)
    message: AIMessage = reduce(add, ask(gate))
    assert message.content == "Forty-one."
    assert message.additional_kwargs["reasoning_content"] == "Three and nineteen, hm."


@every_way
def test_a_completion_has_none_of_it_in_its_text(make_model: ModelFactory, ask: Ask) -> None:
    model = make_model([CHAT.response(THOUGHT, 0.9)], repeat=True, name="double", chunk_tokens=4)
    llm = AdaptiveLLM.from_model(model, max_samples=1, reasoning_parser="think")
    assert "".join(ask(llm)) == "Forty-one."
    (((generation,),),) = [llm.generate(["Make 41."]).generations]
    assert generation.text == "Forty-one."
    assert generation.generation_info is not None
    assert generation.generation_info["reasoning_content"] == "Three and nineteen, hm."


def test_a_cache_tells_the_two_apart(make_model: ModelFactory) -> None:
    llm = thinker(make_model, CHAT.response(THOUGHT, 0.9), cache=InMemoryCache())
    plain = llm.model_copy(update={"reasoning_parser": None})
    assert [llm.invoke("x").content, plain.invoke("x").content] == ["Forty-one.", THOUGHT]


@every_way
def test_an_unknown_parser_is_refused_by_name(make_model: ModelFactory, ask: Ask) -> None:
    llm = thinker(make_model, CHAT.response(THOUGHT, 0.9), reasoning_parser="thinking")
    with pytest.raises(ConfigurationError) as caught:
        ask(llm)
    assert caught.value.field == "reasoning_parser"
