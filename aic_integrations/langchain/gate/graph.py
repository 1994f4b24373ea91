"""The confidence gate as nodes and edges of a LangGraph graph."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, Unpack

from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from aic_integrations.langchain.gate.run import (
    HELD_KEY,
    RECORDS_KEY,
    REFUSAL,
    GateRun,
    GateSettings,
    apply_reply,
    first_answer,
    gate_records,
    held,
    hold,
    last_ai_message,
    question_to_person,
    wait_for_person,
    waiting_id,
)
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.gate import (
    GateAction,
    GatePolicy,
    PersonReply,
    current_run,
    last_run,
    read_reply,
)

__all__ = ["ConfidenceGateNode", "GateState", "ask_person", "carry_out", "wait_for_reply"]


class GateState(TypedDict, total=False):
    """A graph's state with what a gate needs; yours extends it, or has the same three keys."""

    messages: Annotated[list[AnyMessage], add_messages]
    """As in LangGraph's own state of messages."""
    confidence_gate: Annotated[list[dict[str, Any]], operator.add]
    """Every decision, oldest first; `gate_records` gives them their types."""
    confidence_gate_held: list[dict[str, Any]]
    """Attempts of the run that has not ended: no messages yet."""


class ConfidenceGateNode:
    """A node that comes right after a model, and says where to go next.

    ::

        gate = ConfidenceGateNode(threshold=0.8, on_low=("retry", "interrupt"))

        def model(state):
            return {"messages": [llm.invoke(state["messages"], **gate.settings(state))]}

        graph.add_node("gate", gate)
        graph.add_node("person", gate.ask_person)
        graph.add_conditional_edges(
            "gate", gate.route, {"retry": "model", "interrupt": "person", "accept": END}
        )

    An answer that does not pass is taken out of the messages before the model is asked again, and
    held back while a person is asked. But a "messages" stream shows it: the model's node has put
    it into the state by then. Where people read along, ask a `ConfidenceGateChatModel` in one node.

    Args:
        num_stronger: Models that "escalate" leads to; `level` says which one is next.
        refusal: The text of a refusal.
        settings: Of `selfeval_backend.gate.GatePolicy`.

    Raises:
        ConfigurationError: A setting is out of its range.
    """

    def __init__(
        self, *, num_stronger: int = 0, refusal: str = REFUSAL, **settings: Unpack[GateSettings]
    ) -> None:
        self.policy = GatePolicy(**settings, num_stronger=num_stronger)
        """The settings, checked."""
        self._refusal = refusal

    def __call__(self, state: GateState) -> dict[str, Any]:
        """Judge the last message, and return the update of the state.

        Raises:
            GateError: No answer passed, and the policy ends with "raise".
            ConfigurationError: The last message is no AIMessage.
        """
        run = self._run(state)
        answer = last_ai_message(state.get("messages") or ())
        update: dict[str, Any] = {RECORDS_KEY: [run.add(answer).to_json()]}
        gone = RemoveMessage(id=str(answer.id))
        if not run.over:
            return {**update, "messages": [gone], HELD_KEY: hold(run.messages)}
        message = run.message()
        if run.records[-1].action == "interrupt":
            waiting = wait_for_person(message)
            return {**update, "messages": [gone, waiting], HELD_KEY: hold([message])}
        given = [message] if message.id == answer.id else [gone, message]
        return {**update, "messages": given, HELD_KEY: []}

    def route(self, state: GateState) -> GateAction:
        """Return the last decision, for `add_conditional_edges`.

        Raises:
            ConfigurationError: The gate has decided nothing yet.
        """
        records = gate_records(state)
        if not records:
            raise ConfigurationError(RECORDS_KEY, None, "a state that went through the gate's node")
        return records[-1].action

    def settings(self, state: GateState) -> dict[str, Any]:
        """Return keywords for the model's next call: more samples, on a retry; else none."""
        return self._run(state).settings

    def level(self, state: GateState) -> int:
        """Return which model is next: 0 is the first one, k the k-th stronger one."""
        return self._run(state).level

    def ask_person(self, state: GateState) -> dict[str, Any]:
        """Interrupt the graph, and carry out what a person replies: a node of its own."""
        return ask_person(state, self._refusal)

    def _run(self, state: GateState) -> GateRun:
        if RECORDS_KEY not in state:
            raise ConfigurationError(
                "state", sorted(state), f"a state with {RECORDS_KEY}, as GateState declares it"
            )
        records = current_run(gate_records(state))
        answers = [m for m in held(state) if isinstance(m, AIMessage)] if records else []
        return GateRun(self.policy, self._refusal, records, answers)


def ask_person(state: Mapping[str, Any], refusal: str = REFUSAL) -> dict[str, Any]:
    """Interrupt a graph with the answer that is held, and return the update that a reply makes.

    Args:
        state: Its last run of the gate ended with "interrupt".
        refusal: The text of a refusal, where a reply rejects with no content.

    Raises:
        ConfigurationError: No answer is held.
    """
    return carry_out(wait_for_reply(state), state, refusal)


def wait_for_reply(state: Mapping[str, Any]) -> PersonReply:
    """Interrupt a graph with the answer that is held, until a person replies.

    A reply that cannot be read is asked for again, with the problem under ``problem``.

    Raises:
        ConfigurationError: No answer is held.
    """
    records = last_run(gate_records(state))
    if not records or records[-1].action != "interrupt" or not held(state):
        raise ConfigurationError(
            HELD_KEY, state.get(HELD_KEY), "an answer that a gate held back for a person"
        )
    question = question_to_person(first_answer(held(state)), records)
    reply = read_reply(interrupt(question))
    while not isinstance(reply, PersonReply):
        reply = read_reply(interrupt({**question, "problem": reply}))
    return reply


def carry_out(reply: PersonReply, state: Mapping[str, Any], refusal: str) -> dict[str, Any]:
    """Return the update of the state that a person's reply makes.

    Args:
        reply: To the answer that is held.
        state: As it was when the person was asked.
        refusal: The text of a refusal, where the reply rejects with no content.
    """
    answer = first_answer(held(state))
    message, record = apply_reply(answer, last_run(gate_records(state)), reply, refusal)
    beside = [each for each in held(state) if each is not answer and each.id != answer.id]
    return {
        "messages": [
            RemoveMessage(id=waiting_id(answer)),
            message,
            *(beside if reply.type == "approve" else ()),
        ],
        RECORDS_KEY: [record.to_json()],
        HELD_KEY: [],
    }
