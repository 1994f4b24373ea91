"""Collecting outcomes and giving settings around engines that do neither."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.types import Thread
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

from aic_integrations.llama_index import AdaptiveLLM, best_of_n_settings, collect_best_of_n
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, NoFinishedSampleError
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conftest import make_engine

CHAT = ScriptedChat()


def test_a_query_keeps_its_outcome(llm: AdaptiveLLM, settings: None) -> None:
    engine = make_engine(llm, similarity_top_k=2)
    with collect_best_of_n() as collected:
        response = engine.query("Who?")
    (call,) = collected.calls
    assert call.text == str(response) == "He did"
    assert call.model == "double"
    assert call.best_of_n is not None
    assert call.confidence == call.best_of_n["confidence"] == pytest.approx(0.95)
    assert collected.confidence == call.confidence
    assert collected.calibrated
    assert collected.usage == call.usage
    assert collected.usage.total_tokens == call.best_of_n["tokens"]["total"]


def test_several_calls_are_worth_what_the_weakest_is(llm: AdaptiveLLM) -> None:
    with collect_best_of_n() as collected:
        llm.complete("Who wrote it?")
        llm.complete("Who?")
    assert [call.text for call in collected.calls] == ["He did", "Nobody did"]
    assert collected.confidence == pytest.approx(0.3)
    summary = collected.summary()
    assert summary is not None
    assert summary["confidence"] == collected.confidence
    assert summary["stop_reason"] == "max_samples"
    assert summary["tokens"]["total"] == sum(c["tokens"]["total"] for c in summary["calls"])


def test_nothing_is_no_confidence(llm: AdaptiveLLM) -> None:
    with collect_best_of_n() as collected:
        pass
    llm.complete("Who?")
    assert collected.calls == ()
    assert collected.confidence is None
    assert not collected.calibrated
    assert collected.summary() is None


def test_blocks_may_be_nested(llm: AdaptiveLLM) -> None:
    with collect_best_of_n() as outer:
        llm.complete("Who?")
        with collect_best_of_n() as inner:
            llm.complete("Who wrote it?")
    assert len(outer.calls) == 2
    assert inner.calls == outer.calls[1:]


@pytest.mark.timeout(120)
async def test_tasks_belong_to_where_they_were_started(llm: AdaptiveLLM) -> None:
    async def ask(question: str) -> list[str | None]:
        with collect_best_of_n() as collected:
            await asyncio.gather(*(llm.acomplete(question) for _ in range(3)))
        return [call.text for call in collected.calls]

    with collect_best_of_n() as everything:
        found = await asyncio.gather(ask("Who?"), ask("Who wrote it?"))
    assert found == [["Nobody did"] * 3, ["He did"] * 3]
    assert len(everything.calls) == 6


@pytest.mark.timeout(120)
async def test_threads_that_carry_the_context(llm: AdaptiveLLM) -> None:
    async def ask() -> None:
        await llm.acomplete("Who?")

    with collect_best_of_n() as collected:
        await asyncio.to_thread(llm.complete, "Who?")
        asyncio_run(ask())
        context = contextvars.copy_context()
        for thread in (
            Thread(target=llm.complete, args=("Who?",)),
            threading.Thread(target=context.run, args=(llm.complete, "Who?")),
        ):
            thread.start()
            await asyncio.to_thread(thread.join)
    assert len(collected.calls) == 4


async def test_workflows_and_chat_engines(llm: AdaptiveLLM, settings: None) -> None:
    class Ask(Workflow):
        @step
        async def ask(self, event: StartEvent) -> StopEvent:
            memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
            engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
            return StopEvent(result=str(await engine.achat(event.question)))

    with collect_best_of_n() as collected:
        assert await Ask().run(question="Who wrote it?") == "He did"
    assert [call.text for call in collected.calls] == ["He did"]


def test_a_stream_belongs_to_where_it_began(llm: AdaptiveLLM) -> None:
    with collect_best_of_n() as collected:
        stream = llm.stream_chat([ChatMessage("Who?")])
    assert collected.calls == ()
    *_, last = stream
    assert [call.text for call in collected.calls] == [last.message.content]


def test_a_call_that_fails_is_paid_for_too(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response("never", fail_after=3)], chunk_tokens=1)
    llm = AdaptiveLLM.from_model(model, max_samples=1)
    with collect_best_of_n() as collected, pytest.raises(NoFinishedSampleError) as caught:
        llm.complete("Who?")
    (call,) = collected.calls
    assert call.text is call.best_of_n is call.confidence is None
    assert call.error is caught.value
    assert collected.usage == caught.value.trace.usage
    assert collected.usage.generated_tokens == 3
    assert collected.confidence is None


def test_settings_for_all_calls_inside(llm: AdaptiveLLM, settings: None) -> None:
    engine = make_engine(llm)
    with collect_best_of_n() as collected:
        with best_of_n_settings(max_samples=5, timeout=60), best_of_n_settings(seed=9):
            engine.query("Who?")
            llm.complete("Who?", max_samples=1)
        engine.query("Who?")
    policies = [call.best_of_n["policy"] for call in collected.calls if call.best_of_n]
    assert [p["max_samples"] for p in policies] == [5, 1, 2]
    assert [p["seed"] for p in policies] == [9, 9, 0]
    assert [p["max_seconds"] for p in policies] == [60, 60, None]


@pytest.mark.parametrize("wrong", [{"max_samples": 0}, {"smaples": 3}, {"model": "another"}])
def test_settings_are_checked_where_they_are_given(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))), best_of_n_settings(**wrong):
        raise AssertionError("not reached")
