"""The gate inside a chat model: wherever one goes, and nothing rejected gets out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from aic_integrations.langchain import ChatAdaptive, ConfidenceGateChatModel, gate_records
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import (
    ConfigurationError,
    LowConfidenceError,
    MissingConfidenceError,
    UncalibratedConfidenceError,
)
from selfeval_backend.gate import GatePolicy
from tests.conftest import ModelFactory
from tests.integrations.langchain.confident_model import (
    ConfidentModel,
    Scripted,
    StreamingModel,
)

CHAT = ScriptedChat()
BAD, GOOD = Scripted(0.1, "bad words here"), Scripted(0.9, "good words here")
CALL = {"name": "double", "args": {"number": 4}, "id": "1", "type": "tool_call"}


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def gated(*answers: Any, **settings: Any) -> ConfidenceGateChatModel:
    given = {"threshold": 0.8, "on_low": ("retry", "raise"), **settings}
    return ConfidenceGateChatModel(StreamingModel(*answers), **given)


def by_invoke(model: Any, config: Any = None) -> AIMessage:
    answer = model.invoke("Make 41.", config)
    assert isinstance(answer, AIMessage)
    return answer


def by_ainvoke(model: Any, config: Any = None) -> AIMessage:
    answer = asyncio.run(model.ainvoke("Make 41.", config))
    assert isinstance(answer, AIMessage)
    return answer


def by_stream(model: Any, config: Any = None) -> AIMessage:
    whole = reduce(add, model.stream("Make 41.", config))
    assert isinstance(whole, AIMessageChunk) and whole.chunk_position == "last"
    return whole


def by_astream(model: Any, config: Any = None) -> AIMessage:
    async def collect() -> list[AIMessageChunk]:
        return [chunk async for chunk in model.astream("Make 41.", config)]

    whole = reduce(add, asyncio.run(collect()))
    assert isinstance(whole, AIMessageChunk) and whole.chunk_position == "last"
    return whole


Ask = Callable[..., AIMessage]
every_way = pytest.mark.parametrize("ask", [by_invoke, by_ainvoke, by_stream, by_astream])


class Listener(BaseCallbackHandler):
    """Hears all tokens and runs."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.runs: list[Any] = []

    def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.runs.append(run_id)

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.heard.append(str(token))


# Answers.


@every_way
def test_only_what_passed_is_shown_and_all_of_it_is_said(ask: Ask) -> None:
    listener = Listener()
    message = ask(gated(BAD, GOOD), {"callbacks": [listener]})
    assert message.text.strip() == "good words here"
    assert [record.action for record in gate_records(message)] == ["retry", "accept"]
    assert [record.confidence for record in gate_records(message)] == [0.1, 0.9]
    assert message.response_metadata["best_of_n"]["confidence"] == 0.9
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 20
    assert message.usage_metadata["output_tokens"] == 1 + 2
    assert message.usage_metadata.get("input_token_details") == {"cache_read": 8}
    assert "bad" not in "".join(listener.heard)
    assert len(listener.runs) == 1


@every_way
def test_no_token_is_counted_twice(ask: Ask) -> None:
    handler = UsageMetadataCallbackHandler()
    message = ask(gated(BAD, GOOD), {"callbacks": [handler]})
    with get_usage_metadata_callback() as around:
        ask(gated(BAD, GOOD))
    for heard in (handler, around):
        assert heard.usage_metadata == {"double": message.usage_metadata}


@every_way
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Scripted(0.1), LowConfidenceError),
        (Scripted(None), MissingConfidenceError),
        (Scripted(0.99, calibrated=False), UncalibratedConfidenceError),
    ],
)
def test_nothing_passes_in_silence(ask: Ask, answer: Scripted, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(gated(answer))


@every_way
def test_a_missing_confidence_goes_its_own_way(ask: Ask) -> None:
    missing = Scripted(None, "who knows")
    assert ask(gated(missing, on_missing="accept")).text.strip() == "who knows"
    refused = ask(gated(missing, on_missing="refuse", refusal="I do not know."))
    assert refused.content == "I do not know."
    assert refused.response_metadata["confidence_gate"]["action"] == "refuse"


@every_way
def test_stronger_models_are_asked_one_after_another(ask: Ask) -> None:
    strong, strongest = (ConfidentModel(c, label=str(c)) for c in (0.2, 0.9))
    gate = gated(BAD, on_low=("retry", "escalate"), stronger=[strong, strongest])
    message = ask(gate)
    assert [record.model for record in gate_records(message)] == ["double", "double", "0.2", "0.9"]
    assert message.response_metadata["model_name"] == "0.9"
    assert strong.calls.settings == [{}]


def test_settings_of_the_call_and_of_the_model_come_through() -> None:
    model = ConfidentModel(0.1, 0.9)
    gate = ConfidenceGateChatModel(model.bind(top_p=0.5, seed=1), threshold=0.8, on_low="retry")
    gate.invoke("x", temperature=0.3)
    assert model.calls.settings == [
        {"top_p": 0.5, "seed": 1, "temperature": 0.3},
        {"top_p": 0.5, "seed": 2, "temperature": 0.3, "max_samples": 8, "threshold": 0.8},
    ]


def test_in_a_chain_and_in_batches() -> None:
    chain = ChatPromptTemplate.from_template("{x}") | gated(GOOD) | StrOutputParser()
    assert [text.strip() for text in chain.batch([{"x": "a"}] * 3)] == ["good words here"] * 3
    assert list(chain.stream({"x": "a"})) == ["good words here"]


def test_around_the_gate_langchain_does_as_with_any_model() -> None:
    class Flaky(ConfidentModel):
        def _next(self, *args: Any) -> AIMessage:
            if not self.calls.count:
                self.calls.messages.append([])
                raise OSError("once")
            return super()._next(*args)

    gate = ConfidenceGateChatModel(Flaky(0.9), threshold=0.8)
    assert gate.with_retry(stop_after_attempt=2).invoke("x").content == "answer 1"
    swapped = gated(BAD, on_low="refuse").configurable_fields(
        refusal=ConfigurableField(id="refusal")
    )
    assert swapped.invoke("x", {"configurable": {"refusal": "No."}}).content == "No."


# Over an adaptive model.


@every_way
def test_over_an_adaptive_model(make_model: ModelFactory, ask: Ask) -> None:
    script = [CHAT.response("no", 0.2)] * 2 + [CHAT.response("no", 0.4), CHAT.response("yes", 0.9)]
    llm = ChatAdaptive.from_model(make_model(script), max_samples=2, threshold=0.3)
    message = ask(ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry"))
    assert message.text == "yes"
    assert message.response_metadata["best_of_n"]["policy"]["max_samples"] == 4
    paid = [record.usage for record in gate_records(message)]
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == sum(u.generated_tokens for u in paid if u)


def test_handlers_hear_of_the_progress_of_all_attempts(make_model: ModelFactory) -> None:
    class Watch(BaseCallbackHandler):
        told: list[tuple[Any, str]]

        def __init__(self) -> None:
            self.told = []

        def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
            self.told.append((run_id, data["type"]))

    model = make_model([CHAT.response("no", 0.2), CHAT.response("yes", 0.9)])
    llm = ChatAdaptive.from_model(model, max_samples=1)
    watch = Watch()
    gate = ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry", retry_samples=1)
    gate.invoke("Make 41.", {"callbacks": [watch]})
    assert [what for _, what in watch.told].count("drawn") == 2
    assert len({run for run, _ in watch.told}) == 1


async def test_leaving_a_stream_leaves_nothing_running(make_model: ModelFactory) -> None:
    slow = replace(CHAT.response("never"), delay_s=60.0)
    model = make_model([CHAT.response("no", 0.1), slow, slow])
    llm = ChatAdaptive.from_model(model, max_samples=1)
    gate = ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry")
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    task: asyncio.Future[Any] = asyncio.ensure_future(anext(gate.astream("x")))
    while engine.num_running < 1 or len(engine.stream_calls) < 2:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.num_open == 0


class Sum(BaseModel):
    """A sum."""

    total: int


def test_structured_output_is_gated_too(make_model: ModelFactory) -> None:
    def call(total: int, confidence: float) -> Any:
        return CHAT.response(f'{{"name": "Sum", "arguments": {{"total": {total}}}}}', confidence)

    model = make_model([call(12, 0.1), call(41, 0.9)])
    llm = ChatAdaptive.from_model(model, max_samples=1)
    gate = ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry", retry_samples=1)
    assert gate.with_structured_output(Sum).invoke("3 + 19 + 19?") == Sum(total=41)


def test_a_refusal_is_no_structured_output() -> None:
    gate = ConfidenceGateChatModel(ToolModel(0.1), threshold=0.8, on_low="refuse")
    with pytest.raises(OutputParserException, match="no valid call of Sum"):
        gate.with_structured_output(Sum).invoke("x")
    told: Any = gate.with_structured_output(Sum, include_raw=True).invoke("x")
    assert gate_records(told["raw"])[-1].action == "refuse"
    assert isinstance(told["parsing_error"], OutputParserException)
    with pytest.raises(ConfigurationError) as caught:
        gate.with_structured_output(Sum, method="by_hand")  # type: ignore[arg-type]  # on purpose
    assert caught.value.field == "method"


# Streams.


def test_events_have_no_token_of_what_was_rejected() -> None:
    async def collect() -> list[str]:
        events = gated(BAD, GOOD).astream_events("x", version="v2")
        return [
            str(event["data"]["chunk"].text)  # type: ignore[typeddict-item]  # LangChain's own key
            async for event in events
            if event["event"] == "on_chat_model_stream"
        ]

    assert "".join(asyncio.run(collect())).strip() == "good words here"


@every_way
def test_protocol_events_have_none_either(ask: Ask) -> None:
    class Protocol(BaseCallbackHandler, _V2StreamingCallbackHandler):
        def __init__(self) -> None:
            self.told: list[Any] = []

        def on_stream_event(self, event: Any, **_: Any) -> None:
            self.told.append(event)

    told = Protocol()
    message = ask(gated(BAD, GOOD), {"callbacks": [told]})
    assert "bad" not in str(told.told)
    assert message.response_metadata["confidence_gate"]["action"] == "accept"


async def test_a_model_that_streams_in_a_thread_leaks_nothing() -> None:
    class Loud(StreamingModel):
        """Streams whether it is asked to or not, as some models do."""

        def _generate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kw: Any
        ) -> Any:
            for _ in self._stream(messages, stop, run_manager, **kw):
                pass
            self.calls.messages.pop()
            self.calls.settings.pop()
            return super()._generate(messages, stop, run_manager, **kw)

    listener = Listener()
    gate = ConfidenceGateChatModel(Loud(BAD, GOOD), threshold=0.8, on_low="retry")
    config: Any = {"callbacks": [listener]}
    for message in (gate.invoke("x", config), await gate.ainvoke("x", config)):
        assert message.text == "good words here"
    assert "bad" not in "".join(listener.heard)


def messages_stream(model: Any, *, tools: Any = ()) -> list[Any]:
    agents = pytest.importorskip("langchain.agents", reason="the extra agents is missing")
    agent = agents.create_agent(model, list(tools))
    asked: Any = {"messages": [("human", "Make 41.")]}
    return [message for message, _ in agent.stream(asked, stream_mode="messages")]


def test_an_agents_stream_shows_only_what_passed() -> None:
    leaky = messages_stream(StreamingModel(BAD))
    assert "bad" in "".join(message.text for message in leaky)  # it would be seen
    shown = messages_stream(gated(BAD, GOOD))
    assert "".join(message.text for message in shown) == "good words here"
    assert [record.action for record in gate_records(shown[-1])] == ["retry", "accept"]
    assert shown[-1].usage_metadata["output_tokens"] == 3


async def test_an_agents_stream_shows_only_what_passed_asynchronously() -> None:
    agents = pytest.importorskip("langchain.agents", reason="the extra agents is missing")
    agent = agents.create_agent(gated(BAD, GOOD), [])
    asked: Any = {"messages": [("human", "Make 41.")]}
    stream = agent.astream(asked, stream_mode="messages")
    assert "".join([message.text async for message, _ in stream]) == "good words here"


def test_an_agent_calls_tools_through_the_gate() -> None:
    calls = Scripted(0.9, "calling", tool_calls=(CALL,))
    model = ConfidentModel(Scripted(0.2, "bad", tool_calls=(CALL,)), calls, GOOD)
    gate = ConfidenceGateChatModel(model, threshold=0.8, on_low="retry")
    shown = messages_stream(gate, tools=[double])
    assert [message.text for message in shown] == ["calling", "8", "good words here"]
    assert shown[0].tool_calls == [CALL]


# Tools.


class ToolModel(ConfidentModel):
    """Remembers what was bound."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        names = [convert_to_openai_tool(each)["function"]["name"] for each in tools]
        return self.bind(tools=names, **kwargs)


def test_tools_are_bound_to_every_model_in_its_own_way() -> None:
    weak, strong = ToolModel(0.1), ToolModel(0.9)
    gate = ConfidenceGateChatModel(
        weak.bind(seed=3), threshold=0.8, on_low="escalate", stronger=strong
    )
    gate.bind_tools([double], tool_choice="any").invoke("x")
    bound = {"tools": ["double"], "tool_choice": "any"}
    assert weak.calls.settings == [{**bound, "seed": 3}]
    assert strong.calls.settings == [bound]


# Caches, limits, traces.


def test_the_cache_is_the_models_own() -> None:
    cached = ConfidentModel(GOOD, cache=InMemoryCache())
    for _ in range(2):
        message = ConfidenceGateChatModel(cached, threshold=0.8).invoke("x")
        assert gate_records(message)[0].confidence == 0.9
    assert cached.calls.count == 1
    with pytest.raises(ConfigurationError, match="Give it to the models"):
        ConfidenceGateChatModel(cached, threshold=0.8, cache=True)  # type: ignore[call-arg]  # on purpose


def test_every_attempt_is_under_the_models_rate_limit() -> None:
    class Limit(InMemoryRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            type(self).asked += 1
            return True

    model = ConfidentModel(0.1, 0.9, rate_limiter=Limit())
    ConfidenceGateChatModel(model, threshold=0.8, on_low="retry").invoke("x")
    assert Limit.asked == 2


def test_a_trace_names_the_model_and_its_tools(make_model: ModelFactory) -> None:
    class Watch(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **told: Any) -> None:
            self.told = told

    watch = Watch()
    llm = ChatAdaptive.from_model(make_model([CHAT.response("yes", 0.9)], name="double"))
    gate: Any = ConfidenceGateChatModel(llm, threshold=0.8).bind_tools([double])
    gate.invoke("x", {"callbacks": [watch]})
    assert watch.told["metadata"]["ls_model_name"] == "double"
    assert watch.told["invocation_params"]["tools"][0]["function"]["name"] == "double"
    assert watch.told["invocation_params"]["threshold"] == 0.8


# What cannot be.


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"threshold": 2}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"on_low": "escalate"}, "on_low"),
        ({"on_low": "interrupt"}, "on_low"),
        ({"on_missing": ("retry", "interrupt")}, "on_missing"),
        ({"on_uncalibrated": "interrupt"}, "on_uncalibrated"),
        ({"stronger": [StrOutputParser()]}, "stronger"),
        ({"llm": None}, "llm"),
        ({"llm": ChatPromptTemplate.from_template("x") | ConfidentModel(0.9)}, "llm"),
        ({"llm": ConfidentModel(0.9).with_retry()}, "llm"),
        ({"llm": ConfidentModel(0.9).with_config(tags=["x"])}, "llm"),
        ({"on_lwo": "retry"}, "on_lwo"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_construction(values: dict[str, Any], field: str) -> None:
    given = {"llm": ConfidentModel(0.9), "threshold": 0.5, **values}
    with pytest.raises(ConfigurationError) as caught:
        ConfidenceGateChatModel(**given)
    assert caught.value.field == field


def test_a_model_without_tools_says_so() -> None:
    gate = ConfidenceGateChatModel(FakeListChatModel(responses=["x"]), threshold=0.8)
    with pytest.raises(NotImplementedError):
        gate.bind_tools([double])


def test_its_defaults_are_the_policys() -> None:
    assert gated(GOOD, on_low=("retry", "raise")).policy == GatePolicy(threshold=0.8)
    known = {each.name for each in fields(GatePolicy)} - {"num_stronger"}
    assert known < set(ConfidenceGateChatModel.model_fields)
