"""The gate as a node and conditional edges of a LangGraph graph."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langgraph.graph", reason="the extra with LangGraph is missing")

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from aic_integrations.langchain import (
    ConfidenceGateNode,
    ConfidenceGateRunnable,
    GateState,
    gate_records,
)
from aic_integrations.langchain.gate.run import WAITING
from selfeval_backend.errors import ConfigurationError, LowConfidenceError, MissingConfidenceError
from tests.integrations.langchain.confident_model import (
    ConfidentModel,
    Scripted,
    StreamingModel,
)

QUESTION: Any = {"messages": [("human", "Make 41.")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


def graph(*models: ConfidentModel, **settings: Any) -> Any:
    """Return a graph that asks these models, the weakest first, and a person at last."""
    gate = ConfidenceGateNode(threshold=0.8, num_stronger=len(models) - 1, **settings)

    def ask(state: GateState) -> dict[str, Any]:
        model = models[gate.level(state)]
        return {"messages": [model.invoke(state["messages"], **gate.settings(state))]}

    builder = StateGraph(GateState)
    builder.add_node("model", ask)
    builder.add_node("gate", gate)
    builder.add_node("person", gate.ask_person)
    builder.add_edge(START, "model")
    builder.add_edge("model", "gate")
    builder.add_edge("person", END)
    ways = {
        "accept": END,
        "refuse": END,
        "retry": "model",
        "escalate": "model",
        "interrupt": "person",
    }
    builder.add_conditional_edges("gate", gate.route, ways)
    return builder.compile(checkpointer=InMemorySaver())


def texts(state: dict[str, Any]) -> list[str]:
    return [message.content for message in state["messages"]]


def test_a_confident_answer_passes() -> None:
    state = graph(ConfidentModel(0.9)).invoke(QUESTION, THREAD)
    assert texts(state) == ["Make 41.", "answer 0"]
    assert [record.action for record in gate_records(state)] == ["accept"]


def test_a_retry_does_not_see_what_did_not_pass() -> None:
    model = ConfidentModel(0.1, 0.2, 0.9)
    state = graph(model, on_low="retry", max_retries=2).invoke(QUESTION, THREAD)
    assert texts(state) == ["Make 41.", "answer 2"]
    assert [len(messages) for messages in model.calls.messages] == [1, 1, 1]
    assert [s.get("max_samples") for s in model.calls.settings] == [None, 8, 16]
    usage = state["messages"][-1].usage_metadata
    assert usage["output_tokens"] == 1 + 2 + 3


def test_escalation() -> None:
    strong = ConfidentModel(0.9, label="strong")
    state = graph(ConfidentModel(0.1), strong, on_low=("retry", "escalate")).invoke(
        QUESTION, THREAD
    )
    assert state["messages"][-1].response_metadata["model_name"] == "strong"
    assert [record.action for record in gate_records(state)] == ["retry", "escalate", "accept"]


def test_the_best_attempt_is_given_out() -> None:
    state = graph(ConfidentModel(0.6, 0.2), on_low=("retry", "accept")).invoke(QUESTION, THREAD)
    assert texts(state) == ["Make 41.", "answer 0"]
    assert state["confidence_gate_held"] == []


def test_a_refusal() -> None:
    state = graph(ConfidentModel(0.1), on_low="refuse", refusal="No.").invoke(QUESTION, THREAD)
    assert texts(state) == ["Make 41.", "No."]


def test_nothing_passes_in_silence() -> None:
    with pytest.raises(LowConfidenceError):
        graph(ConfidentModel(0.1)).invoke(QUESTION, THREAD)
    with pytest.raises(MissingConfidenceError):
        graph(ConfidentModel(None)).invoke(QUESTION, THREAD)


@pytest.mark.parametrize(
    ("reply", "text", "action"),
    [
        ("approve", "answer 0", "accept"),
        ({"type": "edit", "content": "41"}, "41", "accept"),
        ({"type": "reject", "content": "Ask Ada."}, "Ask Ada.", "refuse"),
    ],
    ids=str,
)
def test_a_person_decides(reply: Any, text: str, action: str) -> None:
    made = graph(ConfidentModel(0.6, 0.2), on_low=("retry", "interrupt"))
    waiting = made.invoke(QUESTION, THREAD)
    assert waiting["__interrupt__"][0].value["answer"] == "answer 0"
    assert "answer 0" not in texts(waiting)
    state = made.invoke(Command(resume=reply), THREAD)
    assert texts(state) == ["Make 41.", text]
    assert gate_records(state)[-1].action == action
    assert state["messages"][-1].usage_metadata["output_tokens"] == 3


async def test_asynchronously_and_over_several_turns() -> None:
    made = graph(ConfidentModel(0.1, 0.9, 0.2, 0.95), on_low="retry")
    await made.ainvoke(QUESTION, THREAD)
    state = await made.ainvoke(QUESTION, THREAD)
    assert texts(state) == ["Make 41.", "answer 1", "Make 41.", "answer 3"]
    assert [r.attempt for r in gate_records(state)] == [0, 1, 0, 1]


def test_another_question_in_place_of_a_reply() -> None:
    made = graph(ConfidentModel(0.1, 0.9), on_low="interrupt")
    made.invoke(QUESTION, THREAD)
    state = made.invoke({"messages": [("human", "Make 42.")]}, THREAD)
    assert texts(state) == ["Make 41.", WAITING, "Make 42.", "answer 1"]
    assert [record.action for record in gate_records(state)] == ["interrupt", "accept"]


@pytest.mark.parametrize("model", [ConfidentModel, StreamingModel])
def test_a_runnable_in_a_node_streams_only_what_passed(model: type[ConfidentModel]) -> None:
    answers = model(Scripted(0.1, "a b"), Scripted(0.9, "c d"))
    gated = ConfidenceGateRunnable(answers, threshold=0.8, on_low="retry")
    builder = StateGraph(GateState)
    builder.add_node("model", lambda state: {"messages": [gated.invoke(state["messages"])]})
    builder.add_edge(START, "model")
    app = builder.compile()
    parts = [chunk.content for chunk, _ in app.stream(QUESTION, stream_mode="messages")]  # type: ignore[union-attr, misc]  # pairs
    assert "".join(map(str, parts)).split() == ["c", "d"]


def test_a_gate_that_does_not_come_after_a_model_is_refused() -> None:
    gate = ConfidenceGateNode(threshold=0.5)
    with pytest.raises(ConfigurationError, match="right after a model"):
        gate({"messages": [HumanMessage("x")], "confidence_gate": []})
    with pytest.raises(ConfigurationError, match="as GateState declares it"):
        gate.settings({"messages": [HumanMessage("x")]})
    with pytest.raises(ConfigurationError, match="went through"):
        gate.route({})
    with pytest.raises(ConfigurationError, match="held back"):
        gate.ask_person({})
