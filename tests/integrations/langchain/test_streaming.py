"""Streams of `ChatAdaptive` and `AdaptiveLLM`: text as it comes, and nothing lost by it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tracers._streaming import (
    _StreamingCallbackHandler,
    _V2StreamingCallbackHandler,
)

from aic_integrations.langchain import AdaptiveLLM, ChatAdaptive
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, label_logprobs_of
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    NoFinishedSampleError,
    StreamBrokenError,
)
from selfeval_backend.types import TraceEvent
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
TEXT = " forty-one, and no more "
SCRIPT = [
    CHAT.response("no idea at all", {4: 0.2, 14: 0.2}),
    replace(
        CHAT.response(TEXT), label_logprobs=lambda at: label_logprobs_of(0.9 if at == 4 else 0.8)
    ),
    CHAT.response("twelve or so", {4: 0.1, 12: 0.5}),
]


def engine_of(llm: ChatAdaptive | AdaptiveLLM) -> ScriptedEngine:
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    return llm.backend.engine


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    """Three samples, the second of which is accepted at four tokens."""
    model = make_model(SCRIPT, repeat=True, name="double")
    return ChatAdaptive.from_model(
        model, max_samples=3, adaptive=False, seed=5, prune_at=4, accept_above=0.85
    )


@pytest.fixture
def slow(make_model: ModelFactory) -> ChatAdaptive:
    """One sample that takes a second."""
    model = make_model(lambda _: CHAT.response("word " * 40, 0.9, delay_s=0.005), chunk_tokens=1)
    return ChatAdaptive.from_model(model, max_samples=1)


def merged(chunks: list[Any]) -> Any:
    return reduce(add, chunks)


def by_stream(llm: ChatAdaptive, **given: Any) -> list[AIMessageChunk]:
    return list(llm.stream("Make 41.", **given))


def by_astream(llm: ChatAdaptive, **given: Any) -> list[AIMessageChunk]:
    async def collect() -> list[AIMessageChunk]:
        return [chunk async for chunk in llm.astream("Make 41.", **given)]

    return asyncio.run(collect())


def same(one: BaseMessage, other: BaseMessage) -> None:
    """Alike in all but the id."""
    for field in ("content", "response_metadata", "additional_kwargs", "usage_metadata"):
        assert getattr(one, field) == getattr(other, field), field


def alike(one: BaseMessage, other: BaseMessage) -> None:
    """The same, where one may be told in content blocks."""
    assert one.text == other.text
    metadata = {**one.response_metadata}
    metadata.pop("output_version", None)
    assert metadata == other.response_metadata
    assert getattr(one, "usage_metadata") == getattr(other, "usage_metadata")  # noqa: B009


@pytest.mark.parametrize("collect", [by_stream, by_astream])
@pytest.mark.parametrize(
    "given", [{}, {"prune_at": ()}, {"include_samples": True}, {"stop": ["and"]}], ids=str
)
def test_chunks_merge_to_the_message_that_invoke_gives(
    llm: ChatAdaptive, collect: Callable[..., list[AIMessageChunk]], given: dict[str, Any]
) -> None:
    if given.get("prune_at") == ():
        llm = llm.model_copy(update={"accept_above": None})
    chunks = collect(llm, **given)
    whole = merged(chunks)
    same(whole, llm.invoke("Make 41.", **given))
    assert whole.content.startswith("forty-one,")
    assert chunks[-1].chunk_position == "last"
    assert engine_of(llm).num_open == 0


@pytest.mark.parametrize("collect", [by_stream, by_astream])
def test_text_flows_from_the_checkpoint_and_the_rest_is_on_the_last_chunk(
    llm: ChatAdaptive, collect: Callable[..., list[AIMessageChunk]]
) -> None:
    *pieces, last = collect(llm)
    assert [piece.content for piece in pieces[:3]] == ["for", "ty-o", "ne,"]
    assert not any(piece.response_metadata or piece.usage_metadata for piece in pieces)
    assert set(last.response_metadata) == {
        *("model_name", "model_provider", "finish_reason", "best_of_n")
    }
    assert last.response_metadata["best_of_n"]["stop_reason"] == "accepted"
    assert last.usage_metadata is not None
    assert last.usage_metadata["output_token_details"]["pruned"] == 8  # type: ignore[typeddict-item]


async def test_text_comes_while_the_sample_runs(slow: ChatAdaptive) -> None:
    began = time.monotonic()
    stream = slow.astream("x")
    first = await anext(stream)
    until_first = time.monotonic() - began
    assert first.content == "word"
    rest = [chunk.content async for chunk in stream]
    assert until_first < (time.monotonic() - began) / 2
    assert len(rest) > 20


def test_a_chain_streams(llm: ChatAdaptive) -> None:
    chain = ChatPromptTemplate.from_template("Make {n}.") | llm | StrOutputParser()
    pieces = list(chain.stream({"n": 41}))
    assert "".join(pieces) == TEXT.strip()
    assert len(pieces) > 3


async def test_events_of_a_stream_carry_text_and_metadata(llm: ChatAdaptive) -> None:
    events = [event async for event in llm.astream_events("Make 41.", version="v2")]
    assert [e["event"] for e in (events[0], events[-1])] == [
        *("on_chat_model_start", "on_chat_model_end")
    ]
    text = "".join(
        e["data"]["chunk"].content for e in events if e["event"] == "on_chat_model_stream"
    )
    assert text == TEXT.strip()
    whole = events[-1]["data"]["output"]
    assert whole.response_metadata["best_of_n"]["confidence"] == pytest.approx(0.8)


@pytest.mark.filterwarnings("ignore:.*is in beta")
async def test_the_newest_kind_of_events_carries_all_too(llm: ChatAdaptive) -> None:
    plain = llm.invoke("Make 41.")
    stream = await llm.astream_events("Make 41.", version="v3")
    alike(await stream.output, plain)
    alike(llm.stream_events("Make 41.", version="v3").output, plain)


# An invoke that becomes a stream.


class Listener(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """A handler that turns invoke into a stream, as LangGraph's "messages" mode does."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.tokens.append(token)

    def tap_output_aiter(self, run_id: Any, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        return output


class ListenerV2(BaseCallbackHandler, _V2StreamingCallbackHandler):
    """The same, of the newer kind."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_stream_event(self, event: Any, **_: Any) -> None:
        if event["event"] == "content-block-delta":
            self.tokens.append(event["delta"].get("text", ""))


@pytest.mark.parametrize("kind", [Listener, ListenerV2])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_listener_makes_invoke_a_stream_that_loses_nothing(
    llm: ChatAdaptive, kind: type[Listener], is_async: bool
) -> None:
    listener, plain = kind(), llm.invoke("Make 41.")
    config: Any = {"callbacks": [listener]}
    message = (
        asyncio.run(llm.ainvoke("Make 41.", config)) if is_async else llm.invoke("Make 41.", config)
    )
    alike(message, plain)
    assert "".join(listener.tokens) == plain.content
    assert len(listener.tokens) > 3


@pytest.mark.parametrize("how", ["field", "keyword"])
def test_invoke_streams_where_it_is_asked_to(llm: ChatAdaptive, how: str) -> None:
    tokens: list[str] = []

    class Plain(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, **_: Any) -> None:
            tokens.append(token)

    config: Any = {"callbacks": [Plain()]}
    plain = llm.invoke("Make 41.", config)
    assert tokens == []
    if how == "field":
        assert llm.backend is not None
        chosen = {"max_samples": 3, "adaptive": False, "seed": 5, "prune_at": 4}
        eager = ChatAdaptive.from_model(llm.backend, streaming=True, accept_above=0.85, **chosen)
        message = eager.invoke("Make 41.", config)
    else:
        message = llm.invoke("Make 41.", config, stream=True)
    assert "".join(tokens) == message.content == plain.content
    same(message, plain)


def test_usage_of_a_stream_is_counted_once(llm: ChatAdaptive) -> None:
    handler = UsageMetadataCallbackHandler()
    total = merged(list(llm.stream("Make 41.", {"callbacks": [handler]}))).usage_metadata
    assert handler.usage_metadata["double"]["total_tokens"] == total["total_tokens"]


def test_a_cached_answer_keeps_its_metadata(llm: ChatAdaptive) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    first = cached.invoke("Make 41.", {"callbacks": [Listener()]})
    num_streams = len(engine_of(llm).stream_calls)
    again = cached.invoke("Make 41.")
    assert again.response_metadata["best_of_n"] == first.response_metadata["best_of_n"]
    assert len(engine_of(llm).stream_calls) == num_streams


# Leaving half-way.


async def gone(engine: ScriptedEngine) -> None:
    """Wait a moment until nothing is open: LangChain leaves its generators to the event loop."""
    for _ in range(200):
        if engine.num_open == 0:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{engine.num_open} streams are open")


def test_closing_a_stream_leaves_nothing_running(slow: ChatAdaptive) -> None:
    stream = slow.stream("x")
    next(stream)
    assert engine_of(slow).num_open == 1
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert engine_of(slow).num_open == 0


async def test_closing_an_asynchronous_stream_leaves_nothing_running(slow: ChatAdaptive) -> None:
    stream = slow.astream("x")
    await anext(stream)
    assert engine_of(slow).num_open == 1
    await stream.aclose()  # type: ignore[attr-defined]  # a generator
    await gone(engine_of(slow))


async def test_breaking_out_of_a_stream_leaves_nothing_running(slow: ChatAdaptive) -> None:
    async for _ in slow.astream("x"):
        break
    await gone(engine_of(slow))


async def test_cancelling_a_stream_leaves_nothing_running(slow: ChatAdaptive) -> None:
    seen: list[Any] = []

    async def read() -> None:
        async for chunk in slow.astream("x"):
            seen.append(chunk)  # noqa: PERF401  # until it is cancelled

    task = asyncio.create_task(read())
    while not seen:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(engine_of(slow))


async def test_a_timeout_leaves_nothing_running(slow: ChatAdaptive) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await slow.ainvoke("x", {"callbacks": [Listener()]})
    await gone(engine_of(slow))


@pytest.mark.timeout(120)
def test_streams_of_many_threads_and_loops_at_once(make_model: ModelFactory) -> None:
    model = make_model(
        lambda call: CHAT.response(CHAT.decode(call.prompt_ids).upper(), 0.95, delay_s=0.001)
    )
    llm = ChatAdaptive.from_model(model, max_samples=1)
    found: dict[str, str] = {}

    def here(name: str) -> None:
        found[name] = merged(list(llm.stream(name))).content

    async def there(name: str) -> None:
        found[name] = merged([chunk async for chunk in llm.astream(name)]).content

    async def several(name: str) -> None:
        await asyncio.gather(*(there(f"{name} number {i}") for i in range(3)))

    def work(place: int) -> None:
        if place % 2:
            asyncio.run(several(f"loop {place}"))
        else:
            here(f"thread {place}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 + 9
    assert all(text == name.upper() for name, text in found.items())
    assert engine_of(llm).num_open == 0


# What goes wrong.


def test_bad_input_is_refused_before_any_token(llm: ChatAdaptive) -> None:
    for use in (lambda: list(llm.stream("")), lambda: list(llm.stream("x", max_samples=0))):
        with pytest.raises(ConfigurationError):
            use()
    assert engine_of(llm).stream_calls == []


def test_errors_come_through(make_model: ModelFactory) -> None:
    failing = CHAT.response("abcdefgh", {4: 0.9, 8: 0.9}, fail_after=6)
    alone = ChatAdaptive.from_model(make_model([failing] * 2), max_samples=1)
    for collect in (by_stream, by_astream):
        with pytest.raises(NoFinishedSampleError):
            collect(alone)
    two = [CHAT.response("aa", 0.3), failing]
    given = {"max_samples": 2, "prune_at": 4, "accept_above": 0.8}
    with pytest.raises(StreamBrokenError) as caught:
        by_stream(ChatAdaptive.from_model(make_model(two), **given))
    assert caught.value.answer == "aa"
    # Without a stream it is an answer like any other.
    assert ChatAdaptive.from_model(make_model(two), **given).invoke("x").content == "aa"
    short = ChatAdaptive.from_model(make_model(SCRIPT, context_length=100))
    with pytest.raises(ContextLengthError, match="Shorten the prompt"):
        list(short.stream("x" * 90))


# Progress.


class Watcher(AsyncCallbackHandler):
    """Listens to custom events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        assert name == "best_of_n"
        self.events.append(data)


STORY = ["drawn", "evaluated", "accepted", "pruned", "evaluated", "stopped"]


def kinds(watcher: Watcher) -> list[str]:
    return [event["type"] for event in watcher.events]


async def test_progress_of_an_invoke_is_told_as_custom_events(llm: ChatAdaptive) -> None:
    watcher, seen = Watcher(), list[TraceEvent]()
    watched = llm.model_copy(update={"on_progress": seen.append})
    await watched.ainvoke("Make 41.", {"callbacks": [watcher]})
    assert kinds(watcher) == STORY
    drawn, evaluated, accepted, pruned, _, stopped = watcher.events
    assert drawn["samples"] == evaluated["samples"] == [0, 1, 2]
    assert accepted["samples"] == [1]
    assert pruned["samples"] == [0, 2]
    assert stopped["reason"] == "accepted"
    assert stopped["total_tokens"] == seen[-1].usage.total_tokens
    assert len(seen) == len(STORY) + 2, "Advance is no progress of its own"


def test_progress_of_a_synchronous_invoke(llm: ChatAdaptive) -> None:
    watcher = Watcher()
    llm.invoke("Make 41.", {"callbacks": [watcher]})
    assert kinds(watcher) == STORY


async def test_progress_of_a_stream_within_a_chain(llm: ChatAdaptive) -> None:
    watcher = Watcher()
    chain = ChatPromptTemplate.from_template("Make {n}.") | llm
    async for _ in chain.astream({"n": 41}, {"callbacks": [watcher]}):
        pass
    assert kinds(watcher) == STORY
    again = Watcher()
    list(chain.stream({"n": 41}, {"callbacks": [again]}))
    assert kinds(again) == STORY
    events = [
        e["data"].get("type", "") if e["event"] == "on_custom_event" else e["event"]
        async for e in chain.astream_events({"n": 41}, version="v2")
        if e["event"] in ("on_custom_event", "on_chat_model_stream")
    ]
    assert [event for event in events if event != "on_chat_model_stream"] == STORY
    assert events.index("on_chat_model_stream") > events.index("accepted")


async def test_a_stream_of_its_own_has_nobody_to_tell(llm: ChatAdaptive) -> None:
    watcher, seen = Watcher(), list[TraceEvent]()
    watched = llm.model_copy(update={"on_progress": seen.append})
    async for _ in watched.astream("Make 41.", {"callbacks": [watcher]}):
        pass
    assert kinds(watcher) == []
    assert len(seen) == len(STORY) + 2


async def test_a_watcher_that_fails_on_purpose_ends_the_call(llm: ChatAdaptive) -> None:
    class Failing(Watcher):
        raise_error = True

        async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await llm.ainvoke("Make 41.", {"callbacks": [Failing()]})
    assert engine_of(llm).num_open == 0


# The completion model.


@pytest.fixture
def completion(llm: ChatAdaptive) -> AdaptiveLLM:
    assert llm.backend is not None
    return AdaptiveLLM.from_model(
        llm.backend, max_samples=3, adaptive=False, seed=5, prune_at=4, accept_above=0.85
    )


def test_a_completion_is_the_chosen_text(completion: AdaptiveLLM, llm: ChatAdaptive) -> None:
    assert completion.invoke("Make 41.") == TEXT.strip()
    ((generation,),) = completion.generate(["Make 41."]).generations
    message = llm.invoke("Make 41.")
    assert generation.generation_info == {
        **message.response_metadata,
        "usage_metadata": message.usage_metadata,
    }


async def test_a_completion_streams(completion: AdaptiveLLM) -> None:
    assert [piece for piece in completion.stream("Make 41.") if piece] == [
        *("for", "ty-o", "ne,", " and", " no m", "ore")
    ]
    pieces = [piece async for piece in completion.astream("Make 41.")]
    assert "".join(pieces) == TEXT.strip()
    assert len(pieces) > 3
    chunks = [chunk async for chunk in completion._astream("Make 41.")]
    ((plain,),) = (await completion.agenerate(["Make 41."])).generations
    whole = merged(chunks)
    assert whole.text == plain.text
    assert whole.generation_info == plain.generation_info


def test_completions_of_several_prompts_run_together(make_model: ModelFactory) -> None:
    model = make_model(lambda call: CHAT.response(CHAT.decode(call.prompt_ids).upper(), 0.95))
    completion = AdaptiveLLM.from_model(model)
    result = completion.generate(["one", "two"])
    assert [g.text for (g,) in result.generations] == ["ONE", "TWO"]
    assert result.llm_output == {"model_name": "scripted"}
    assert completion.batch(["one", "two"]) == ["ONE", "TWO"]


def test_one_completion_that_fails_ends_the_others(make_model: ModelFactory) -> None:
    def script(call: Any) -> Any:
        text = CHAT.decode(call.prompt_ids)
        return replace(
            CHAT.response("x" * 9, delay_s=0.0 if text == "bad" else 60.0),
            fail_after=0 if text == "bad" else None,
        )

    completion = AdaptiveLLM.from_model(make_model(script), max_samples=1)
    with pytest.raises(NoFinishedSampleError):
        completion.generate(["good", "bad"])
    assert engine_of(completion).num_open == 0


def test_a_completion_refuses_what_a_chat_refuses(completion: AdaptiveLLM) -> None:
    with pytest.raises(ConfigurationError, match="content"):
        completion.invoke(" ")
    with pytest.raises(ConfigurationError, match="max_samples"):
        AdaptiveLLM(max_samples=0)
    with pytest.raises(ConfigurationError, match="threshold"):
        completion.invoke("x", treshold=1)
    assert isinstance(AIMessage("x"), BaseMessage)


def test_tracing_and_json_know_the_completion_model() -> None:
    llm = AdaptiveLLM(temperature=0.5, max_samples=4)
    assert llm._get_ls_params()["ls_provider"] == "adaptive-inference-compute"
    assert llm._get_ls_params()["ls_model_type"] == "llm"
    assert llm.to_json()["id"] == ["aic_integrations", "langchain", "AdaptiveLLM"]
