"""Query engines that keep the confidence, and that act on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetryQueryEngine

from aic_integrations.llama_index import (
    AdaptiveLLM,
    BestOfNQueryEngine,
    ConfidenceEvaluator,
    ConfidenceGateQueryEngine,
    collect_best_of_n,
)
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, StreamCall
from selfeval_backend.errors import (
    ConfigurationError,
    LowConfidenceError,
    MissingConfidenceError,
    NoFinishedSampleError,
    UncalibratedConfidenceError,
)
from selfeval_backend.model import SelfEvaluatingModel, UncalibratedWarning
from selfeval_backend.selfeval import SelfEvalConfig
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conftest import FirstNodes, engine_of, make_engine

CHAT = ScriptedChat()
Ask = Callable[[BaseQueryEngine, str], Response]

pytestmark = pytest.mark.usefixtures("settings")


def _ask(engine: BaseQueryEngine, question: str) -> Response:
    response = engine.query(question)
    assert isinstance(response, Response)
    return response


def _aask(engine: BaseQueryEngine, question: str) -> Response:
    response = asyncio.run(engine.aquery(question))  # type: ignore[arg-type]  # a coroutine
    assert isinstance(response, Response)
    return response


@pytest.fixture(params=[_ask, _aask], ids=["query", "aquery"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def told(response: Response) -> dict[str, Any]:
    """What the gate says, which is JSON."""
    assert response.metadata is not None
    gate: dict[str, Any] = response.metadata["confidence_gate"]
    assert json.loads(json.dumps(gate)) == gate
    return gate


# Keeping the confidence.


def test_a_response_keeps_what_the_llm_said(llm: AdaptiveLLM, ask: Ask) -> None:
    response = ask(BestOfNQueryEngine(make_engine(llm, similarity_top_k=2)), "Who?")
    assert response.response == "He did"
    assert response.metadata is not None
    assert response.metadata["best_of_n"]["confidence"] == pytest.approx(0.95)
    assert len(response.metadata["best_of_n"]["calls"]) == 1
    assert len(response.source_nodes) == 2


def test_without_an_llm_call_there_is_nothing_to_keep(llm: AdaptiveLLM, ask: Ask) -> None:
    response = ask(BestOfNQueryEngine(make_engine(llm, texts=[])), "Who?")
    assert response.metadata == {"best_of_n": None}


@pytest.mark.parametrize("streaming", [False, True])
def test_several_calls_are_all_kept(llm: AdaptiveLLM, ask: Ask, streaming: bool) -> None:
    engine = make_engine(llm, similarity_top_k=3, response_mode="refine", streaming=streaming)
    response = ask(BestOfNQueryEngine(engine), "Who?")
    assert response.metadata is not None
    assert len(response.metadata["best_of_n"]["calls"]) == 3
    assert response.metadata["best_of_n"]["confidence"] == pytest.approx(0.3)


# The gate.


def test_a_confident_answer_passes(llm: AdaptiveLLM, ask: Ask) -> None:
    gate = ConfidenceGateQueryEngine(make_engine(llm, similarity_top_k=2), threshold=0.8)
    response = ask(gate, "Who?")
    assert response.response == "He did"
    assert told(response)["action"] == "accept"
    assert told(response)["confidence"] == pytest.approx(0.95)
    assert len(told(response)["attempts"]) == 1
    assert response.metadata is not None
    assert response.metadata["best_of_n"]["calibrated"]


def test_a_retry_retrieves_more_and_draws_more(llm: AdaptiveLLM, ask: Ask) -> None:
    engine = make_engine(llm)
    gate = ConfidenceGateQueryEngine(engine, threshold=0.8)
    with collect_best_of_n() as collected:
        response = ask(gate, "Who?")
    assert response.response == "He did"
    assert len(response.source_nodes) == 2
    first, second = told(response)["attempts"]
    assert (first["top_k"], second["top_k"]) == (1, 2)
    assert (first["action"], second["action"]) == ("retry", "accept")
    assert second["settings"] == {"max_samples": 4, "threshold": 0.9, "seed": 1}
    # Every token of both, and the engine that others may use is as it was.
    usage = told(response)["usage"]
    assert usage["generated_tokens"] == collected.usage.generated_tokens
    assert usage["generated_tokens"] == sum(
        attempt["usage"]["generated_tokens"] for attempt in (first, second)
    )
    assert isinstance(engine.retriever, FirstNodes)
    assert engine.retriever.similarity_top_k == 1
    assert engine_of(llm).num_open == 0


def test_it_says_that_it_does_not_know(llm: AdaptiveLLM, ask: Ask) -> None:
    gate = ConfidenceGateQueryEngine(
        make_engine(llm), threshold=0.8, retrieve_more=1, max_retries=2, refusal="No idea."
    )
    response = ask(gate, "Who?")
    assert response.response == "No idea."
    assert told(response)["action"] == "refuse"
    assert told(response)["reason"] == "confidence 0.300 is below threshold 0.8"
    attempts = told(response)["attempts"]
    assert [attempt["action"] for attempt in attempts] == ["retry", "retry", "refuse"]
    assert [attempt["top_k"] for attempt in attempts] == [1, 1, 1]
    assert [attempt["settings"].get("max_samples") for attempt in attempts] == [None, 4, 8]


def test_it_gives_the_best_answer_out_all_the_same(llm: AdaptiveLLM, ask: Ask) -> None:
    gate = ConfidenceGateQueryEngine(
        make_engine(llm), threshold=0.8, on_low=("retry", "accept"), retrieve_more=1
    )
    response = ask(gate, "Who?")
    assert response.response == "Nobody did"
    assert told(response)["action"] == "accept"
    assert told(response)["attempts"][-1]["verdict"] == "low"


def test_it_raises_with_every_attempt(llm: AdaptiveLLM, ask: Ask) -> None:
    gate = ConfidenceGateQueryEngine(make_engine(llm), threshold=0.8, on_low="raise")
    with pytest.raises(LowConfidenceError, match=r"0\.300 is below threshold 0\.8") as caught:
        ask(gate, "Who?")
    assert len(caught.value.records) == 1


def test_it_asks_another_engine(llm: AdaptiveLLM, ask: Ask) -> None:
    another = make_engine(llm, similarity_top_k=3)
    gate = ConfidenceGateQueryEngine(
        make_engine(llm), threshold=0.8, on_low=("escalate", "refuse"), stronger=[another]
    )
    response = ask(gate, "Who?")
    assert response.response == "He did"
    assert [(a["level"], a["top_k"]) for a in told(response)["attempts"]] == [(0, 1), (1, 3)]


def test_another_engine_may_be_trusted_without_a_confidence(llm: AdaptiveLLM, ask: Ask) -> None:
    keywords: dict[str, Any] = {"threshold": 0.8, "on_low": ("escalate", "refuse")}
    another = [make_engine(MockLLM())]
    gate = ConfidenceGateQueryEngine(
        make_engine(llm), stronger=another, trust_stronger=True, **keywords
    )
    assert told(ask(gate, "Who?"))["attempts"][-1]["verdict"] == "trusted"
    wary = ConfidenceGateQueryEngine(make_engine(llm), stronger=another, **keywords)
    with pytest.raises(MissingConfidenceError, match="no AdaptiveLLM was asked"):
        ask(wary, "Who?")


def test_nothing_retrieved_never_passes_by_itself(llm: AdaptiveLLM, ask: Ask) -> None:
    empty = make_engine(llm, texts=[])
    with pytest.raises(MissingConfidenceError, match="nothing was retrieved"):
        ask(ConfidenceGateQueryEngine(empty, threshold=0.0), "Who?")
    refusing = ConfidenceGateQueryEngine(empty, threshold=0.0, on_missing="refuse")
    assert ask(refusing, "Who?").response == "I do not know."
    accepting = ConfidenceGateQueryEngine(empty, threshold=0.0, on_missing="accept")
    assert ask(accepting, "Who?").response == "Empty Response"


def test_an_uncalibrated_confidence_is_a_policy(model: SelfEvaluatingModel, ask: Ask) -> None:
    with pytest.warns(UncalibratedWarning):
        zero_shot = SelfEvaluatingModel(
            name="zero-shot", engine=model.engine, chat=model.chat, config=SelfEvalConfig()
        )
    engine = make_engine(AdaptiveLLM.from_model(zero_shot), similarity_top_k=2)
    with pytest.raises(UncalibratedConfidenceError):
        ask(ConfidenceGateQueryEngine(engine, threshold=0.8), "Who?")
    comparing = ConfidenceGateQueryEngine(engine, threshold=0.8, on_uncalibrated="compare")
    assert ask(comparing, "Who?").response == "He did"


def test_an_attempt_without_a_sample_is_counted_and_never_passes(
    make_model: ModelFactory, ask: Ask
) -> None:
    model = make_model([CHAT.response("never", fail_after=3)], repeat=True, chunk_tokens=1)
    engine = make_engine(AdaptiveLLM.from_model(model, max_samples=1))
    gate = ConfidenceGateQueryEngine(engine, threshold=0.8, on_missing=("retry", "refuse"))
    response = ask(gate, "Who?")
    assert told(response)["action"] == "refuse"
    assert told(response)["usage"]["generated_tokens"] == 2 * 3
    assert "No sample had finished" in told(response)["reason"]
    giving = ConfidenceGateQueryEngine(engine, threshold=0.8, on_missing="accept")
    with pytest.raises(NoFinishedSampleError):
        ask(giving, "Who?")


@pytest.mark.timeout(120)
async def test_queries_at_once_keep_apart(llm: AdaptiveLLM) -> None:
    gate = ConfidenceGateQueryEngine(make_engine(llm), threshold=0.8)
    questions = ["Who?", "Who wrote it?"] * 8
    responses = await asyncio.gather(*(gate.aquery(question) for question in questions))
    counts = [len(told(r)["attempts"]) for r in responses if isinstance(r, Response)]
    assert counts == [2, 1] * 8


async def test_a_cancelled_query_leaves_nothing_running(make_model: ModelFactory) -> None:
    def script(call: StreamCall) -> Any:
        return CHAT.response("a long answer", 0.1, delay_s=0.01)

    model = make_model(script, chunk_tokens=1)
    gate = ConfidenceGateQueryEngine(
        make_engine(AdaptiveLLM.from_model(model)), threshold=0.8, max_retries=3
    )
    task = asyncio.ensure_future(gate.aquery("Who?"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine.num_open == 0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"threshold": 2}, "threshold"),
        ({"threshold": 0.8, "on_low": "interrupt"}, "interrupt.*ConfidenceGateStep"),
        ({"threshold": 0.8, "on_low": "escalate"}, "stronger"),
        ({"threshold": 0.8, "retrieve_more": 0.5}, "retrieve_more"),
        ({"threshold": 0.8, "retrieve_more": True}, "retrieve_more"),
    ],
)
def test_wrong_values_are_refused_at_construction(
    llm: AdaptiveLLM, wrong: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        ConfidenceGateQueryEngine(make_engine(llm), **wrong)


def test_an_engine_that_cannot_retrieve_more_says_so(llm: AdaptiveLLM) -> None:
    engine = SummaryIndex.from_documents([]).as_query_engine(llm=llm)
    with pytest.raises(ConfigurationError, match="retrieve_more=1"):
        ConfidenceGateQueryEngine(engine, threshold=0.8)
    ConfidenceGateQueryEngine(engine, threshold=0.8, retrieve_more=1)
    ConfidenceGateQueryEngine(engine, threshold=0.8, on_low="refuse")


# The evaluator.


def test_an_evaluator_for_retries(llm: AdaptiveLLM, settings: None) -> None:
    from llama_index.core import Settings

    Settings.llm = llm
    engine = BestOfNQueryEngine(make_engine(llm, similarity_top_k=2))
    retrying = RetryQueryEngine(engine, ConfidenceEvaluator(threshold=0.8), max_retries=1)
    assert str(retrying.query("Who?")) == "He did"
    unsure = BestOfNQueryEngine(make_engine(llm))
    retrying = RetryQueryEngine(unsure, ConfidenceEvaluator(threshold=0.8), max_retries=1)
    with collect_best_of_n() as collected:
        retrying.query("Who?")
    assert len(collected.calls) == 2


async def test_what_the_evaluator_says(llm: AdaptiveLLM) -> None:
    evaluator = ConfidenceEvaluator(threshold=0.8)
    response = await BestOfNQueryEngine(make_engine(llm)).aquery("Who?")
    assert isinstance(response, Response)
    result = await evaluator.aevaluate_response("Who?", response)
    assert result.passing is False
    assert result.score == pytest.approx(0.3)
    assert result.feedback == "confidence 0.300 is below threshold 0.8"
    assert not result.invalid_result


def test_a_missing_confidence_is_a_policy_of_the_evaluator() -> None:
    plain = Response("He did", metadata={})
    with pytest.raises(MissingConfidenceError):
        ConfidenceEvaluator(threshold=0.0).evaluate_response("Who?", plain)
    result = ConfidenceEvaluator(threshold=0.0, on_missing="refuse").evaluate_response("?", plain)
    assert result.passing is False
    assert result.invalid_result
    accepting = ConfidenceEvaluator(threshold=0.0, on_missing="accept")
    assert accepting.evaluate_response("?", plain).passing
    with pytest.raises(MissingConfidenceError):
        ConfidenceEvaluator(threshold=0.0).evaluate("?", "He did")
