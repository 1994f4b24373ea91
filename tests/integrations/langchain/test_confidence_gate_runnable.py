"""The gate around the model of a plain chain."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda

from aic_integrations import langchain as package
from aic_integrations.langchain import ChatAdaptive, ConfidenceGateRunnable, gate_records
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import (
    ConfigurationError,
    LowConfidenceError,
    MissingConfidenceError,
    MissingDependencyError,
    UncalibratedConfidenceError,
)
from tests.conftest import ModelFactory
from tests.integrations.langchain.confident_model import ConfidentModel, Scripted

CHAT = ScriptedChat()


def test_a_confident_answer_passes_as_it_is() -> None:
    model = ConfidentModel(0.9)
    message = ConfidenceGateRunnable(model, threshold=0.8).invoke("Make 41.")
    assert message.content == "answer 0"
    assert message.response_metadata["best_of_n"]["confidence"] == 0.9
    report = message.response_metadata["confidence_gate"]
    assert (report["action"], report["attempt"]) == ("accept", 0)
    assert model.calls.settings == [{}]


def test_a_retry_draws_more_samples_and_the_best_attempt_is_given_out() -> None:
    model = ConfidentModel(0.6, 0.2)
    gate = ConfidenceGateRunnable(model, threshold=0.8, on_low=("retry", "accept"))
    message = gate.invoke("Make 41.", stop=["x"])
    assert message.content == "answer 0"
    assert model.calls.settings == [{}, {"max_samples": 8, "threshold": 0.8, "seed": 8}]
    assert [record.action for record in gate_records(message)] == ["retry", "accept"]
    assert [record.confidence for record in gate_records(message)] == [0.6, 0.2]


def test_a_second_retry_goes_on_from_the_first() -> None:
    model = ConfidentModel(0.1, 0.1, 0.9)
    gate = ConfidenceGateRunnable(model, threshold=0.8, on_low="retry", max_retries=2)
    assert gate.invoke("Make 41.").content == "answer 2"
    assert [s.get("max_samples") for s in model.calls.settings] == [None, 8, 16]
    assert [s.get("seed") for s in model.calls.settings] == [None, 8, 9]


def test_stronger_models_are_asked_one_after_another() -> None:
    weak, strong, strongest = (ConfidentModel(c, label=str(c)) for c in (0.1, 0.2, 0.9))
    gate = ConfidenceGateRunnable(
        weak, threshold=0.8, on_low=("retry", "escalate"), stronger=[strong, strongest]
    )
    message = gate.invoke("Make 41.")
    assert [m.calls.count for m in (weak, strong, strongest)] == [2, 1, 1]
    assert strong.calls.settings == [{}]
    records = gate_records(message)
    assert [record.model for record in records] == ["0.1", "0.1", "0.2", "0.9"]
    assert message.response_metadata["model_name"] == "0.9"


def test_a_refusal_is_no_answer() -> None:
    gate = ConfidenceGateRunnable(
        ConfidentModel(0.1), threshold=0.8, on_low="refuse", refusal="I do not know."
    )
    message = gate.invoke("Make 41.")
    assert message.content == "I do not know."
    assert message.response_metadata["model_name"] == "double"
    assert "best_of_n" not in message.response_metadata
    assert message.response_metadata["confidence_gate"]["action"] == "refuse"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Scripted(0.1), LowConfidenceError),
        (Scripted(None), MissingConfidenceError),
        (Scripted(0.99, calibrated=False), UncalibratedConfidenceError),
    ],
)
def test_nothing_passes_in_silence(answer: Scripted, error: type[Exception]) -> None:
    with pytest.raises(error):
        ConfidenceGateRunnable(ConfidentModel(answer), threshold=0.8).invoke("Make 41.")


def test_a_model_of_another_kind_is_escalated_to_if_it_is_trusted() -> None:
    settings: Any = {"threshold": 0.8, "on_low": "escalate"}
    weak, other = ConfidentModel(0.1), ConfidentModel(None, label="other")
    with pytest.raises(MissingConfidenceError, match="trust_stronger"):
        ConfidenceGateRunnable(weak, stronger=other, **settings).invoke("Make 41.")
    gate = ConfidenceGateRunnable(weak, stronger=other, trust_stronger=True, **settings)
    assert gate.invoke("Make 41.").response_metadata["model_name"] == "other"


def test_every_token_of_every_attempt_is_counted_once() -> None:
    handler = UsageMetadataCallbackHandler()
    gate = ConfidenceGateRunnable(
        ConfidentModel(0.1, 0.2, 0.3), threshold=0.8, on_low=("retry", "refuse"), max_retries=2
    )
    message = gate.invoke("Make 41.", config={"callbacks": [handler]})
    usage = message.usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (30, 6)
    assert usage["input_token_details"] == {"cache_read": 12}
    assert handler.usage_metadata["double"]["total_tokens"] == usage["total_tokens"]
    paid = [record.usage for record in gate_records(message)]
    assert [u.generated_tokens for u in paid if u is not None] == [1, 2, 3]


def test_usage_that_is_not_reported_is_not_made_up() -> None:
    gate = ConfidenceGateRunnable(
        ConfidentModel(Scripted(0.1, usage=False), 0.9), threshold=0.8, on_low="retry"
    )
    message = gate.invoke("Make 41.")
    assert [record.usage is None for record in gate_records(message)] == [True, False]


def test_attempts_are_child_runs() -> None:
    class Watch(BaseCallbackHandler):
        parents: list[Any]

        def __init__(self) -> None:
            self.parents = []

        def on_chat_model_start(self, *_: Any, parent_run_id: Any, **__: Any) -> None:
            self.parents.append(parent_run_id)

    watch = Watch()
    gate = ConfidenceGateRunnable(ConfidentModel(0.1, 0.9), threshold=0.8, on_low="retry")
    gate.invoke("Make 41.", config={"callbacks": [watch]})
    assert len(watch.parents) == 2
    assert watch.parents[0] is not None and len(set(watch.parents)) == 1


def chain(model: Any, **settings: Any) -> Any:
    gate = ConfidenceGateRunnable(model, threshold=0.8, **settings)
    return ChatPromptTemplate.from_template("say {what}") | gate | StrOutputParser()


def test_in_a_chain() -> None:
    assert chain(ConfidentModel(0.1, 0.9), on_low="retry").invoke({"what": "x"}) == "answer 1"
    bound = ConfidentModel(0.1, 0.9).bind(stop=["x"])
    assert chain(bound, on_low="retry").invoke({"what": "x"}) == "answer 1"


def test_a_batch() -> None:
    answers = chain(ConfidentModel(0.9)).batch([{"what": str(i)} for i in range(5)])
    assert len(answers) == 5


def test_a_stream_shows_only_what_passed() -> None:
    gated = chain(ConfidentModel(0.1, 0.9), on_low="retry")
    assert list(gated.stream({"what": "x"})) == ["answer 1"]


async def test_asynchronously() -> None:
    gated = chain(ConfidentModel(0.1, 0.9), on_low="retry")
    assert await gated.ainvoke({"what": "x"}) == "answer 1"
    gated = chain(ConfidentModel(0.1, 0.9), on_low="retry")
    assert [part async for part in gated.astream({"what": "x"})] == ["answer 1"]
    with pytest.raises(LowConfidenceError):
        await chain(ConfidentModel(0.1)).ainvoke({"what": "x"})


@pytest.mark.timeout(120)
def test_one_gate_serves_many_threads_and_loops(make_model: ModelFactory) -> None:
    def script(call: Any) -> Any:
        return CHAT.response(CHAT.decode(call.prompt_ids).upper(), 0.95)

    llm = ChatAdaptive.from_model(make_model(script))
    gate = ConfidenceGateRunnable(llm, threshold=0.9, on_low=("retry", "refuse"))
    answers: dict[str, str] = {}

    def work(name: str) -> None:
        message = asyncio.run(gate.ainvoke(name)) if name < "e" else gate.invoke(name)
        answers[name] = str(message.content)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {name: name.upper() for name in "abcdefgh"}


def test_over_an_adaptive_model(make_model: ModelFactory) -> None:
    script = [CHAT.response("no", 0.2)] * 2 + [
        CHAT.response("maybe", 0.4),
        CHAT.response("yes", 0.9),
    ]
    llm = ChatAdaptive.from_model(make_model(script), max_samples=2, threshold=0.3)
    gate = ConfidenceGateRunnable(llm, threshold=0.8, on_low="retry")
    message = gate.invoke("Make 41.")
    assert message.content == "yes"
    records = gate_records(message)
    assert [record.confidence for record in records] == pytest.approx([0.2, 0.9])
    assert message.response_metadata["best_of_n"]["policy"]["max_samples"] == 4
    assert message.response_metadata["best_of_n"]["policy"]["threshold"] == 0.8


async def test_cancelling_leaves_nothing_running(make_model: ModelFactory) -> None:
    slow = replace(CHAT.response("never"), delay_s=60.0)
    model = make_model([CHAT.response("no", 0.1), slow, slow])
    gate = ConfidenceGateRunnable(
        ChatAdaptive.from_model(model, max_samples=1), threshold=0.8, on_low="retry"
    )
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    task = asyncio.create_task(gate.ainvoke("x"))
    while engine.num_running < 1 or len(engine.stream_calls) < 2:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.num_open == 0


@pytest.mark.parametrize("wrap", ["with_retry", "with_fallbacks", "configurable"])
def test_around_what_langchain_makes_of_a_model(wrap: str) -> None:
    model = ConfidentModel(0.1, 0.9)
    wrapped: Any = {
        "with_retry": model.with_retry,
        "with_fallbacks": lambda: model.with_fallbacks([ConfidentModel(0.9)]),
        "configurable": lambda: model.configurable_fields(label=ConfigurableField(id="label")),
    }[wrap]()
    message = ConfidenceGateRunnable(wrapped, threshold=0.8, on_low="retry").invoke("x")
    assert message.content == "answer 1"
    assert model.calls.settings[1]["max_samples"] == 8


# What cannot be.


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"threshold": 2}, "threshold"),
        ({"on_low": "escalate"}, "on_low"),
        ({"on_low": "interrupt"}, "on_low"),
        ({"on_missing": "interrupt"}, "on_missing"),
        ({"stronger": [RunnableLambda(str) | RunnableLambda(str)]}, "stronger"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_construction(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConfidenceGateRunnable(ConfidentModel(0.9), **{"threshold": 0.5, **values})
    assert caught.value.field == field


def test_a_chain_is_no_model() -> None:
    prompt = ChatPromptTemplate.from_template("{x}")
    with pytest.raises(ConfigurationError, match="in the model's place"):
        ConfidenceGateRunnable(prompt | ConfidentModel(0.9), threshold=0.5)  # type: ignore[arg-type]  # on purpose


def test_something_that_gives_no_message_is_refused() -> None:
    gate = ConfidenceGateRunnable(RunnableLambda(lambda _: "text"), threshold=0.5)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match="AIMessage"):
        gate.invoke("x")
    fine = ConfidenceGateRunnable(
        RunnableLambda(lambda _: AIMessage("text")), threshold=0.5, on_missing="accept"
    )
    assert fine.invoke("x").content == "text"


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("ConfidenceGate", "langchain.agents.middleware.types", "agents"),
        ("ConfidenceGateNode", "langgraph.graph.message", "agents"),
        ("SelfEvaluationDecisionModel", "langchain_core.decisions", "agents"),
        ("GenAISpans", "opentelemetry", "telemetry"),
    ],
)
def test_what_is_not_installed_is_said_with_its_extra(
    name: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"{package.__name__}.{package._LATE[name]}"
    monkeypatch.delitem(vars(package), name, raising=False)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=rf"{missing} is not.*\[{extra}\]"):
        getattr(package, name)
