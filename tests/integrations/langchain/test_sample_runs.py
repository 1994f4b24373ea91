"""Samples as child runs, as LangChain's tracers see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any
from unittest.mock import MagicMock

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run
from langsmith import Client

from aic_integrations.langchain import AdaptiveLLM, ChatAdaptive, ConfidenceGateChatModel
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
SCRIPT = [
    CHAT.response("no idea at all", {4: 0.2, 14: 0.2}),
    CHAT.response("secret", {4: 0.7, 6: 0.9}),
    CHAT.response("two", {3: 0.3}),
]
SETTINGS: dict[str, Any] = {
    "max_samples": 3,
    "adaptive": False,
    "annealing": (0.0, 0.7, 1.0),
    "prune_at": 4,
    "keep_fraction": 0.5,
    "seed": 5,
}


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    """Three samples: one is pruned, one chosen, one finished in vain."""
    model = make_model(SCRIPT, repeat=True, name="double")
    return ChatAdaptive.from_model(model, trace_samples=True, **SETTINGS)


def by_invoke(model: Any, config: Any) -> AIMessage:
    answer = model.invoke("Make 41.", config)
    assert isinstance(answer, AIMessage)
    return answer


def by_ainvoke(model: Any, config: Any) -> AIMessage:
    answer = asyncio.run(model.ainvoke("Make 41.", config))
    assert isinstance(answer, AIMessage)
    return answer


Ask = Callable[..., AIMessage]
both_ways = pytest.mark.parametrize("ask", [by_invoke, by_ainvoke])


def traced(ask: Ask, model: Any) -> Run:
    collector = RunCollectorCallbackHandler()
    ask(model, {"callbacks": [collector]})
    (run,) = collector.traced_runs
    return run


@both_ways
def test_each_sample_is_a_child_run(llm: ChatAdaptive, ask: Ask) -> None:
    run = traced(ask, llm)
    assert run.run_type in ("llm", "chat_model")
    assert [child.name for child in run.child_runs] == ["sample 0", "sample 1", "sample 2"]
    assert {child.run_type for child in run.child_runs} == {"chain"}
    assert all(child.end_time is not None and child.error is None for child in run.child_runs)
    assert [child.inputs["aic.sample.index"] for child in run.child_runs] == [0, 1, 2]
    temperatures = [child.inputs["gen_ai.request.temperature"] for child in run.child_runs]
    assert temperatures == [0.0, 0.7, 1.0]
    outputs = [child.outputs or {} for child in run.child_runs]
    assert [o["aic.sample.fate"] for o in outputs] == ["pruned", "chosen", "finished"]
    assert [o.get("aic.sample.finish_reason") for o in outputs] == [None, "stop", "stop"]
    assert [o.get("aic.confidence") for o in outputs] == pytest.approx([None, 0.9, 0.3])
    assert outputs[1]["gen_ai.usage.output_tokens"] == 7
    assert [e["aic.evaluation.num_tokens"] for e in outputs[1]["evaluations"]] == [4, 6]


@both_ways
def test_an_accepted_sample_is_marked(make_model: ModelFactory, ask: Ask) -> None:
    model = make_model(SCRIPT, name="double")
    llm = ChatAdaptive.from_model(model, trace_samples=True, accept_above=0.6, **SETTINGS)
    outputs = [child.outputs or {} for child in traced(ask, llm).child_runs]
    assert [o["aic.sample.accepted"] for o in outputs] == [False, True, False]


@both_ways
def test_texts_are_told_only_where_they_are_asked_for(llm: ChatAdaptive, ask: Ask) -> None:
    def told(run: Run) -> str:
        return json.dumps([[child.inputs, child.outputs] for child in run.child_runs])

    bare = told(traced(ask, llm))
    assert "secret" not in bare and "Make 41." not in bare
    full = told(traced(ask, llm.model_copy(update={"include_samples": True})))
    assert "secret" in full and "Make 41." not in full


@both_ways
def test_there_are_none_unless_they_are_asked_for(llm: ChatAdaptive, ask: Ask) -> None:
    assert not traced(ask, llm.model_copy(update={"trace_samples": False})).child_runs


@both_ways
def test_no_token_is_counted_twice(llm: ChatAdaptive, ask: Ask) -> None:
    handler = UsageMetadataCallbackHandler()
    with get_usage_metadata_callback() as around:
        message = ask(llm, {"callbacks": [handler]})
    assert handler.usage_metadata == {"double": message.usage_metadata}
    assert around.usage_metadata == {"double": message.usage_metadata}


class Faulty(BaseCallbackHandler):
    """Breaks at every sample."""

    def __init__(self) -> None:
        self.asked = 0

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise RuntimeError("full")

    def on_chain_end(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("full")


class AsyncFaulty(AsyncCallbackHandler):
    """The same on the event loop."""

    def __init__(self) -> None:
        self.asked = 0

    async def on_chain_start(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise RuntimeError("full")


@both_ways
@pytest.mark.parametrize("kind", [Faulty, AsyncFaulty])
def test_a_fault_in_a_handler_breaks_no_answer(llm: ChatAdaptive, ask: Ask, kind: Any) -> None:
    handler, collector = kind(), RunCollectorCallbackHandler()
    assert ask(llm, {"callbacks": [handler, collector]}).text == "secret"
    assert handler.asked == 3
    assert len(collector.traced_runs[0].child_runs) == 3


def test_a_handler_of_the_models_own_is_told_too(llm: ChatAdaptive) -> None:
    collector = RunCollectorCallbackHandler()
    llm.model_copy(update={"callbacks": [collector]}).invoke("x")
    assert len(collector.traced_runs[0].child_runs) == 3


def test_of_a_stream_they_are_children_of_the_run_around_it(llm: ChatAdaptive) -> None:
    collector = RunCollectorCallbackHandler()
    chain = RunnableLambda(lambda text: text) | llm
    whole = reduce(add, chain.stream("x", {"callbacks": [collector]}))
    assert whole.text == "secret"
    (run,) = collector.traced_runs
    names = [child.name for child in run.child_runs]
    assert names == ["RunnableLambda", "ChatAdaptive", "sample 0", "sample 1", "sample 2"]
    assert reduce(add, llm.stream("x")).text == "secret"  # with no run around: none, and no fault


async def test_events_have_them_in_their_place(llm: ChatAdaptive) -> None:
    chain = RunnableLambda(lambda text: text) | llm
    events = [event async for event in chain.astream_events("x", version="v2")]
    ended = [e["name"] for e in events if e["event"] == "on_chain_end"]
    assert ended[1:4] == ["sample 0", "sample 1", "sample 2"]


def test_a_completion_model_has_them_too(make_model: ModelFactory) -> None:
    model = make_model(SCRIPT, repeat=True, name="double")
    llm = AdaptiveLLM.from_model(model, trace_samples=True, **SETTINGS)
    collector = RunCollectorCallbackHandler()
    assert llm.invoke("x", {"callbacks": [collector]}) == "secret"
    assert len(collector.traced_runs[0].child_runs) == 3


@both_ways
def test_a_gated_model_has_those_of_all_attempts(make_model: ModelFactory, ask: Ask) -> None:
    model = make_model([CHAT.response("no", 0.1), CHAT.response("yes", 0.9)])
    llm = ChatAdaptive.from_model(model, max_samples=1, trace_samples=True)
    gate = ConfidenceGateChatModel(llm, threshold=0.8, on_low="retry", retry_samples=1)
    run = traced(ask, gate)
    told = [(child.outputs or {})["aic.confidence"] for child in run.child_runs]
    assert told == pytest.approx([0.1, 0.9])


def test_it_is_a_switch() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChatAdaptive(trace_samples="yes")  # type: ignore[arg-type]  # on purpose
    assert caught.value.field == "trace_samples"


def test_langsmith_gets_them_below_the_models_run(llm: ChatAdaptive) -> None:
    session = MagicMock()
    client = Client(
        api_url="http://localhost", api_key="key", session=session, auto_batch_tracing=False
    )
    tracer = LangChainTracer(client=client)
    llm.invoke("Make 41.", {"callbacks": [tracer]})
    tracer.wait_for_futures()
    sent = [json.loads(call.kwargs["data"]) for call in session.request.call_args_list]
    (model,) = {run["id"] for run in sent if run.get("run_type") == "llm"}
    samples = [run for run in sent if (run.get("name") or "").startswith("sample")]
    assert {run["parent_run_id"] for run in samples} == {model}
    ended = [run["outputs"] for run in samples if run.get("outputs")]
    assert [run["aic.sample.fate"] for run in ended] == ["pruned", "chosen", "finished"]
    assert "secret" not in json.dumps(samples) and "Make 41." not in json.dumps(samples)
