"""The gate as middleware of LangChain's agents."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Annotated, Any, NotRequired

import pytest

pytest.importorskip("langchain.agents", reason="the extra with LangChain's agents is missing")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from aic_integrations.langchain import ConfidenceGate, gate_records
from aic_integrations.langchain.gate.run import WAITING
from selfeval_backend.errors import (
    ConfigurationError,
    LowConfidenceError,
    MissingConfidenceError,
    UncalibratedConfidenceError,
)
from selfeval_backend.gate import GateRecord
from tests.integrations.langchain.confident_model import (
    ConfidentModel,
    Scripted,
    StreamingModel,
)

QUESTION: Any = {"messages": [("human", "Make 41.")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}
CALL = {"name": "double", "args": {"number": 4}, "id": "1", "type": "tool_call"}


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def agent(model: ConfidentModel, *more: AgentMiddleware[Any, Any], **settings: Any) -> Any:
    """Return an agent behind a gate, with a tool and a memory."""
    gate = ConfidenceGate(**{"threshold": 0.8, **settings})
    return create_agent(model, [double], middleware=[*more, gate], checkpointer=InMemorySaver())


def answer(state: dict[str, Any]) -> AIMessage:
    message = state["messages"][-1]
    assert isinstance(message, AIMessage)
    return message


# Decisions.


def test_a_confident_answer_passes() -> None:
    model = ConfidentModel(0.9)
    state = agent(model).invoke(QUESTION, THREAD)
    assert answer(state).content == "answer 0"
    assert model.calls.count == 1
    assert [record.action for record in gate_records(state)] == ["accept"]


def test_a_retry_leaves_no_trace_in_the_messages_but_in_the_state() -> None:
    model = ConfidentModel(0.1, 0.9)
    state = agent(model, on_low="retry").invoke(QUESTION, THREAD)
    assert [message.content for message in state["messages"]] == ["Make 41.", "answer 1"]
    assert model.calls.settings[1]["max_samples"] == 8
    assert model.calls.settings[1]["seed"] == 8
    first, second = gate_records(state)
    assert isinstance(first, GateRecord)
    assert (first.action, first.confidence, first.verdict) == ("retry", 0.1, "low")
    assert (second.action, second.attempt) == ("accept", 1)


def test_escalation_to_a_stronger_model() -> None:
    strong = ConfidentModel(0.9, label="strong")
    state = agent(ConfidentModel(0.1), on_low="escalate", stronger=strong).invoke(QUESTION, THREAD)
    assert answer(state).response_metadata["model_name"] == "strong"
    assert [record.level for record in gate_records(state)] == [0, 1]


def test_a_refusal() -> None:
    model = ConfidentModel(Scripted(0.1, tool_calls=(CALL,)))
    state = agent(model, on_low="refuse", refusal="I do not know.").invoke(QUESTION, THREAD)
    assert answer(state).content == "I do not know."
    assert answer(state).tool_calls == []
    assert len(state["messages"]) == 2


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (Scripted(0.1), LowConfidenceError),
        (Scripted(None), MissingConfidenceError),
        (Scripted(0.99, calibrated=False), UncalibratedConfidenceError),
    ],
)
def test_nothing_passes_in_silence(given: Scripted, error: type[Exception]) -> None:
    with pytest.raises(error):
        agent(ConfidentModel(given)).invoke(QUESTION, THREAD)


def test_calls_of_tools_go_through_the_gate_too() -> None:
    model = ConfidentModel(0.1, Scripted(0.9, tool_calls=(CALL,)), 0.2, 0.95)
    state = agent(model, on_low="retry").invoke(QUESTION, THREAD)
    assert [m.type for m in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][2].content == "8"
    actions = [record.action for record in gate_records(state)]
    assert actions == ["retry", "accept", "retry", "accept"]
    assert [record.attempt for record in gate_records(state)] == [0, 1, 0, 1]


def test_every_token_of_every_attempt_is_counted_once() -> None:
    handler = UsageMetadataCallbackHandler()
    state = agent(ConfidentModel(0.1, 0.9), on_low="retry").invoke(
        QUESTION, {**THREAD, "callbacks": [handler]}
    )
    usage = answer(state).usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (20, 3)
    assert handler.usage_metadata["double"]["total_tokens"] == usage["total_tokens"]


def test_records_add_up_over_the_turns_of_a_thread() -> None:
    made = agent(ConfidentModel(0.1, 0.9, 0.95), on_low="retry")
    made.invoke(QUESTION, THREAD)
    state = made.invoke(QUESTION, THREAD)
    assert [r.action for r in gate_records(state)] == ["retry", "accept", "accept"]


class Counter(AgentMiddleware[Any, Any]):
    """Another middleware, with a state of its own, around or inside the gate."""

    class State(AgentState[Any]):
        count: NotRequired[Annotated[int, operator.add]]

    state_schema = State

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings={**request.model_settings, "stop": ["x"]}))


def test_with_another_middleware_around_it() -> None:
    model = ConfidentModel(0.1, 0.9)
    state = agent(model, Counter(), on_low="retry").invoke(QUESTION, THREAD)
    assert answer(state).content == "answer 1"
    assert model.calls.settings[1]["max_samples"] == 8


async def test_asynchronously() -> None:
    state = await agent(ConfidentModel(0.1, 0.9), on_low="retry").ainvoke(QUESTION, THREAD)
    assert answer(state).content == "answer 1"
    with pytest.raises(LowConfidenceError):
        await agent(ConfidentModel(0.1)).ainvoke(QUESTION, THREAD)


# Streams.


@pytest.mark.parametrize("model", [ConfidentModel, StreamingModel])
def test_attempts_that_do_not_pass_are_not_streamed(model: type[ConfidentModel]) -> None:
    made = agent(model(Scripted(0.1, "a b"), Scripted(0.9, "c d")), on_low="retry")
    parts = [chunk.content for chunk, _ in made.stream(QUESTION, THREAD, stream_mode="messages")]
    assert "".join(parts).split() == ["c", "d"]


async def test_nor_are_they_asynchronously() -> None:
    made = agent(StreamingModel(Scripted(0.1, "a b"), Scripted(0.9, "c d")), on_low="retry")
    parts = [
        chunk.content async for chunk, _ in made.astream(QUESTION, THREAD, stream_mode="messages")
    ]
    assert "".join(parts).split() == ["c", "d"]


def test_a_person_is_asked_before_anything_is_streamed() -> None:
    made = agent(StreamingModel(Scripted(0.1, "a b")), on_low="interrupt")
    parts = [chunk.content for chunk, _ in made.stream(QUESTION, THREAD, stream_mode="messages")]
    assert "".join(parts) == WAITING
    reply = Command(resume="approve")
    parts = [chunk.content for chunk, _ in made.stream(reply, THREAD, stream_mode="messages")]
    assert "".join(parts).split() == ["a", "b"]


def test_a_stream_of_updates_has_the_records() -> None:
    made = agent(ConfidentModel(0.1, 0.9), on_low="retry")
    updates = list(made.stream(QUESTION, THREAD, stream_mode="updates"))
    assert "'action': 'retry'" in str(updates)


# People.


def asked(state: dict[str, Any]) -> dict[str, Any]:
    (found,) = state["__interrupt__"]
    value = found.value
    assert isinstance(value, dict)
    return value


def test_a_person_is_asked_and_the_answer_is_held_back_until_then() -> None:
    model = ConfidentModel(0.6, 0.2)
    made = agent(model, on_low=("retry", "interrupt"))
    waiting = made.invoke(QUESTION, THREAD)
    question = asked(waiting)
    assert question["answer"] == "answer 0"
    assert question["confidence"] == 0.6
    assert question["attempts"] == 2
    assert "answer 0" not in str(waiting["messages"])
    state = made.invoke(Command(resume={"type": "approve"}), THREAD)
    assert [message.content for message in state["messages"]] == ["Make 41.", "answer 0"]
    records = gate_records(state)
    assert [record.action for record in records] == ["retry", "interrupt", "accept"]
    assert records[-1].reason == "approved by a person"
    usage = answer(state).usage_metadata
    assert usage is not None and usage["output_tokens"] == 3
    assert model.calls.count == 2


def test_a_person_edits() -> None:
    made = agent(ConfidentModel(Scripted(0.1, tool_calls=(CALL,))), on_low="interrupt")
    question = asked(made.invoke(QUESTION, THREAD))
    assert question["tool_calls"] == [{"name": "double", "args": {"number": 4}}]
    state = made.invoke(Command(resume={"type": "edit", "content": "41"}), THREAD)
    assert [message.content for message in state["messages"]] == ["Make 41.", "41"]
    usage = answer(state).usage_metadata
    assert usage is not None and usage["output_tokens"] == 1


def test_a_person_rejects() -> None:
    made = agent(ConfidentModel(0.1), on_low="interrupt", refusal="I do not know.")
    made.invoke(QUESTION, THREAD)
    state = made.invoke(Command(resume={"type": "reject"}), THREAD)
    assert [message.content for message in state["messages"]] == ["Make 41.", "I do not know."]
    assert gate_records(state)[-1].action == "refuse"


def test_a_tool_is_called_only_once_a_person_approves() -> None:
    model = ConfidentModel(Scripted(0.1, "c", tool_calls=(CALL,)), 0.9)
    made = agent(model, on_low="interrupt")
    made.invoke(QUESTION, THREAD)
    state = made.invoke(Command(resume="approve"), THREAD)
    assert [m.type for m in state["messages"]] == ["human", "ai", "tool", "ai"]


def test_a_reply_that_cannot_be_read_is_asked_for_again() -> None:
    made = agent(ConfidentModel(0.1), on_low="interrupt")
    made.invoke(QUESTION, THREAD)
    again = asked(made.invoke(Command(resume="sure"), THREAD))
    assert "'sure'" in again["problem"]
    state = made.invoke(Command(resume="approve"), THREAD)
    assert answer(state).content == "answer 0"


async def test_a_person_is_asked_asynchronously() -> None:
    made = agent(ConfidentModel(0.1), on_low="interrupt")
    assert asked(await made.ainvoke(QUESTION, THREAD))["answer"] == "answer 0"
    state = await made.ainvoke(Command(resume="approve"), THREAD)
    assert answer(state).content == "answer 0"
    state = await made.ainvoke(QUESTION, THREAD)
    assert len(asked(state)) > 1


def test_another_question_in_place_of_a_reply() -> None:
    made = agent(ConfidentModel(0.1, 0.9), on_low="interrupt")
    made.invoke(QUESTION, THREAD)
    state = made.invoke({"messages": [("human", "Make 42.")]}, THREAD)
    texts = [message.content for message in state["messages"]]
    assert texts == ["Make 41.", WAITING, "Make 42.", "answer 1"]
    assert [record.action for record in gate_records(state)] == ["interrupt", "accept"]


def test_what_is_held_back_is_no_part_of_what_comes_out() -> None:
    made = agent(ConfidentModel(0.1), on_low="interrupt")
    assert "confidence_gate_held" not in made.invoke(QUESTION, THREAD)


# Structured output.


class Sum(BaseModel):
    """A number."""

    value: int


PARSED = Scripted(0.1, "c", tool_calls=({**CALL, "name": "Sum", "args": {"value": 41}},))


def structured(model: ConfidentModel, **settings: Any) -> Any:
    gate = ConfidenceGate(**{"threshold": 0.8, **settings})
    return create_agent(
        model,
        [],
        response_format=ToolStrategy(Sum),
        middleware=[gate],
        checkpointer=InMemorySaver(),
    )


def test_structured_output_that_passes() -> None:
    made = structured(ConfidentModel(PARSED, replace(PARSED, confidence=0.9)), on_low="retry")
    state = made.invoke(QUESTION, THREAD)
    assert state["structured_response"] == Sum(value=41)
    assert [record.action for record in gate_records(state)] == ["retry", "accept"]


def test_structured_output_that_is_refused() -> None:
    state = structured(ConfidentModel(PARSED), on_low="refuse").invoke(QUESTION, THREAD)
    assert state.get("structured_response") is None
    assert [m.type for m in state["messages"]] == ["human", "ai"]


def test_structured_output_waits_for_a_person_too() -> None:
    made = structured(ConfidentModel(PARSED), on_low="interrupt")
    waiting = made.invoke(QUESTION, THREAD)
    assert waiting.get("structured_response") is None
    assert "41" in str(asked(waiting))
    state = made.invoke(Command(resume="approve"), THREAD)
    assert state["structured_response"] == Sum(value=41)
    assert [m.type for m in state["messages"]] == ["human", "ai", "tool"]


def test_structured_output_that_a_person_rejects() -> None:
    made = structured(ConfidentModel(PARSED), on_low="interrupt")
    made.invoke(QUESTION, THREAD)
    state = made.invoke(Command(resume="reject"), THREAD)
    assert state.get("structured_response") is None


# What cannot be.


@pytest.mark.parametrize(
    ("values", "field"),
    [({"threshold": 2}, "threshold"), ({"on_low": "escalate"}, "on_low")],
    ids=str,
)
def test_what_cannot_be_is_refused_at_construction(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConfidenceGate(**{"threshold": 0.5, **values})
    assert caught.value.field == field
