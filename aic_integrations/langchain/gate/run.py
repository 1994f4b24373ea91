"""One run of the gate over LangChain's messages: what all of its forms share, with no I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.messages.ai import UsageMetadata, add_usage

from aic_integrations.langchain.messages import to_usage
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.gate import (
    ConfidenceReading,
    GateAction,
    GatePolicy,
    GateRecord,
    PersonReply,
    Verdict,
    best_attempt,
    decide,
    raise_gate_error,
    read_confidence,
    record_reply,
    retry_settings,
)

__all__ = [
    "HELD_KEY",
    "RECORDS_KEY",
    "REFUSAL",
    "WAITING",
    "GateRun",
    "GateSettings",
    "apply_reply",
    "check_no_interrupt",
    "first_answer",
    "gate_records",
    "held",
    "hold",
    "last_ai_message",
    "question_to_person",
    "refuse",
    "wait_for_person",
    "waiting_id",
    "with_report",
]

RECORDS_KEY = "confidence_gate"
"""Where a gate's records stand: in a graph's state, and in a message's response_metadata."""

HELD_KEY = "confidence_gate_held"
"""Where a graph's state holds back answers that nobody has let through: as JSON, because LangGraph
streams whatever is a message."""

REFUSAL = "I am not confident enough in my answer to give it."
"""The text of a refusal, where no other is given."""

WAITING = "This answer waits for a person to look at it."
"""The text of the message that stands in for an answer that a person is asked about."""


class GateSettings(TypedDict, total=False):
    """Keywords of every form of the gate: the fields of `selfeval_backend.gate.GatePolicy`."""

    threshold: Required[float]
    on_low: GateAction | Sequence[GateAction]
    on_missing: GateAction | Sequence[GateAction]
    on_uncalibrated: GateAction | Literal["compare"] | Sequence[GateAction]
    max_retries: int
    retry_samples: int | None
    trust_stronger: bool


class GateRun:
    """Attempts at one answer, up to the first decision that is final.

    Args:
        policy: Decides.
        refusal: The text of a refusal.
        records: Of the attempts so far.
        messages: Of the attempts so far.
    """

    def __init__(
        self,
        policy: GatePolicy,
        refusal: str,
        records: Sequence[GateRecord] = (),
        messages: Sequence[AIMessage] = (),
    ) -> None:
        self._policy = policy
        self._refusal = refusal
        self.records = tuple(records)
        self.messages = list(messages)

    @property
    def over(self) -> bool:
        """Whether the last decision was final."""
        return bool(self.records) and self.records[-1].final

    @property
    def level(self) -> int:
        """0: the next attempt is the first model's; k: the k-th stronger one's."""
        return sum(record.action == "escalate" for record in self.records)

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of the next call, beside the caller's own."""
        if not self.records or self.records[-1].action != "retry":
            return {}
        return retry_settings(self._policy, _reading(self.messages[-1]))

    @property
    def best(self) -> int:
        """Which attempt is given out, or shown to a person."""
        return best_attempt(self.records)

    def add(self, message: AIMessage) -> GateRecord:
        """Judge an attempt, and return the record of what is done next."""
        record = decide(
            self._policy,
            _reading(message),
            self.records,
            model=str(message.response_metadata.get("model_name") or ""),
            usage=None if message.usage_metadata is None else to_usage(message.usage_metadata),
        )
        self.records += (record,)
        self.messages.append(message)
        return record

    def answer(self, ask: Callable[[int, dict[str, Any]], AIMessage]) -> AIMessage:
        """Make attempts until a decision is final, and return `message`.

        Args:
            ask: Answers, given `level` and `settings`.
        """
        while not self.over:
            self.add(ask(self.level, self.settings))
        return self.message()

    async def aanswer(
        self, ask: Callable[[int, dict[str, Any]], Awaitable[AIMessage]]
    ) -> AIMessage:
        """Do what `answer` does, on the caller's event loop."""
        while not self.over:
            self.add(await ask(self.level, self.settings))
        return self.message()

    def message(self) -> AIMessage:
        """Return what is given out: the best attempt, or a refusal.

        Its ``usage_metadata`` counts all attempts, and ``response_metadata["confidence_gate"]``
        has the records. Of an "interrupt" it is the answer that a person is asked about.

        Raises:
            GateError: The last action is "raise".
        """
        if self.records[-1].action == "raise":
            raise_gate_error(self.records)
        best = self.messages[self.best]
        if self.records[-1].action == "refuse":
            best = refuse(best, self._refusal)
        return with_report(best, self.records, self.messages)


def check_no_interrupt(policy: GatePolicy) -> None:
    """Refuse a policy that would ask a person where nothing can wait for one.

    Raises:
        ConfigurationError: It has an "interrupt"; names the chain.
    """
    verdicts: tuple[Verdict, ...] = ("low", "missing", "uncalibrated")
    for verdict in verdicts:
        if "interrupt" in policy.chain(verdict):
            raise ConfigurationError(
                f"on_{verdict}",
                policy.chain(verdict),
                "no interrupt: a chain or a model cannot wait for a person",
                remedy="Use ConfidenceGate in an agent, or ConfidenceGateNode in a graph.",
            )


def _reading(message: AIMessage) -> ConfidenceReading:
    return read_confidence(message.response_metadata.get("best_of_n"))


def refuse(message: AIMessage, text: str) -> AIMessage:
    """Return a refusal in place of an answer: its text and tool calls are gone, its id stays."""
    kept = ("model_name", "model_provider")
    return AIMessage(
        content=text,
        id=message.id,
        response_metadata={k: v for k, v in message.response_metadata.items() if k in kept},
        usage_metadata=message.usage_metadata,
    )


def with_report(
    message: AIMessage, records: Sequence[GateRecord], paid: Sequence[AIMessage] = ()
) -> AIMessage:
    """Return a message with the gate's report in its metadata.

    Args:
        message: Given out.
        records: Of the run.
        paid: The attempts, whose tokens become the message's; empty: it has them already.
    """
    last = records[-1]
    report = {
        "action": last.action,
        "reason": last.reason,
        "attempt": best_attempt(records),
        "records": [record.to_json() for record in records],
    }
    update: dict[str, Any] = {
        "response_metadata": {**message.response_metadata, RECORDS_KEY: report}
    }
    if paid:
        update["usage_metadata"] = _sum_usage(paid)
    return message.model_copy(update=update)


def _sum_usage(messages: Sequence[AIMessage]) -> UsageMetadata | None:
    total: UsageMetadata | None = None
    for message in messages:
        if message.usage_metadata is not None:
            total = add_usage(total, message.usage_metadata)
    return total


def wait_for_person(message: AIMessage) -> AIMessage:
    """Return what stands in for an answer that a person is asked about."""
    return AIMessage(content=WAITING, id=waiting_id(message))


def waiting_id(message: AIMessage) -> str:
    """Return the id of what stands in for an answer.

    One of its own: LangGraph streams no second message of one id.
    """
    return f"{message.id}-waiting"


def hold(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as they are held back in a graph's state."""
    return [message_to_dict(message) for message in messages]


def held(state: Mapping[str, Any]) -> list[BaseMessage]:
    """Return the messages that a graph's state holds back."""
    return messages_from_dict(list(state.get(HELD_KEY) or ()))


def first_answer(messages: Sequence[BaseMessage]) -> AIMessage:
    """Return the first AIMessage, which a model's messages begin with.

    Raises:
        ConfigurationError: There is none.
    """
    for message in messages:
        if isinstance(message, AIMessage):
            return message
    raise ConfigurationError(
        "messages", [type(m).__name__ for m in messages], "an AIMessage, as a model answers"
    )


def question_to_person(message: AIMessage, records: Sequence[GateRecord]) -> dict[str, Any]:
    """Return what a person is asked, in JSON types.

    Args:
        message: The answer that did not pass.
        records: Of the run.
    """
    return {
        "type": RECORDS_KEY,
        "answer": message.text,
        "tool_calls": [{"name": c["name"], "args": c["args"]} for c in message.tool_calls],
        "confidence": records[best_attempt(records)].confidence,
        "reason": records[-1].reason,
        "attempts": len(records),
        "replies": ["approve", "edit", "reject"],
    }


def apply_reply(
    answer: AIMessage, records: Sequence[GateRecord], reply: PersonReply, refusal: str
) -> tuple[AIMessage, GateRecord]:
    """Return the message that a person's reply leads to, and the record of the reply."""
    record = record_reply(records, reply)
    message = answer
    if reply.type == "edit":
        message = AIMessage(
            content=reply.content or "", id=answer.id, usage_metadata=answer.usage_metadata
        )
    elif reply.type == "reject":
        message = refuse(answer, reply.content or refusal)
    return with_report(message, (*records, record)), record


def gate_records(source: Mapping[str, Any] | AIMessage) -> tuple[GateRecord, ...]:
    """Return a gate's records, out of a graph's state or of a message that it gave out.

    Args:
        source: The state (all runs of the gate, in order), or the message (its own run).
    """
    if isinstance(source, AIMessage):
        found = source.response_metadata.get(RECORDS_KEY, {}).get("records", ())
    else:
        found = source.get(RECORDS_KEY) or ()
    return tuple(GateRecord.from_json(body) for body in found)


def last_ai_message(messages: Sequence[BaseMessage]) -> AIMessage:
    """Return the last message, which has to be an answer.

    Raises:
        ConfigurationError: It is not.
    """
    if not messages or not isinstance(messages[-1], AIMessage):
        raise ConfigurationError(
            "messages[-1]",
            type(messages[-1]).__name__ if messages else None,
            "an AIMessage: a gate comes right after a model",
        )
    return messages[-1]
