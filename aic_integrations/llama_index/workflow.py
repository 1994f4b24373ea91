"""The confidence gate as a step of a LlamaIndex workflow."""

from __future__ import annotations

from typing import Any

from llama_index.core.workflow import Event, step
from pydantic import Field

from aic_integrations.llama_index.scopes import Collection
from selfeval_backend.gate import (
    GatePolicy,
    GateRecord,
    decide,
    raise_gate_error,
    read_confidence,
    retry_settings,
)
from selfeval_backend.types import Usage, to_json

__all__ = ["AnsweredEvent", "ConfidenceGateStep", "ConfidentEvent", "UnsureEvent"]


class AnsweredEvent(Event):
    """An answer that the gate is to judge."""

    query: Any
    """What was asked; passed on as it is."""
    answer: Any
    """What was answered; passed on as it is."""
    best_of_n: dict[str, Any] | None
    """What the answer says of itself; None if nothing."""
    usage: dict[str, int] | None = None
    """What it paid for: the fields of `selfeval_backend.Usage`."""
    records: list[dict[str, Any]] = Field(default_factory=list)
    """The gate's decisions about earlier attempts, as the `UnsureEvent` had them."""

    @classmethod
    def of(
        cls,
        query: Any,
        answer: Any,
        collected: Collection,
        records: list[dict[str, Any]] | None = None,
    ) -> AnsweredEvent:
        """Return the event of an answer whose LLM calls were collected.

        Args:
            query: What was asked.
            answer: What was answered.
            collected: By `collect_best_of_n`, around the answer.
            records: Of the `UnsureEvent` that asked for this attempt.
        """
        return cls(
            query=query,
            answer=answer,
            best_of_n=collected.summary(),
            usage=to_json(collected.usage),
            records=records or [],
        )


class ConfidentEvent(Event):
    """An answer that passed, or is given out all the same ("accept")."""

    query: Any
    """What was asked."""
    answer: Any
    """The answer that passed."""
    records: list[dict[str, Any]]
    """All decisions, this one last."""


class UnsureEvent(Event):
    """An answer that did not pass: the workflow does what `action` says."""

    query: Any
    """What was asked."""
    answer: Any
    """The answer that did not pass."""
    action: str
    """"retry", "escalate", "interrupt" or "refuse"."""
    reason: str
    """In words, with the numbers."""
    settings: dict[str, Any]
    """Of the next attempt at a "retry": for `best_of_n_settings`, around it."""
    records: list[dict[str, Any]]
    """All decisions, this one last: for the `AnsweredEvent` of the next attempt."""


class ConfidenceGateStep:
    """A base of workflows: the step that judges every `AnsweredEvent` by `gate_policy`.

    ::

        class Ask(ConfidenceGateStep, Workflow):
            gate_policy = GatePolicy(threshold=0.8, on_low=("retry", "refuse"))

            @step
            async def ask(self, event: StartEvent | UnsureEvent) -> AnsweredEvent | StopEvent: ...

            @step
            async def done(self, event: ConfidentEvent) -> StopEvent: ...
    """

    gate_policy: GatePolicy
    """What passes, and what is done with what does not."""

    @step
    async def judge_confidence(self, event: AnsweredEvent) -> ConfidentEvent | UnsureEvent:
        """Judge an answer.

        Raises:
            GateError: The policy says "raise".
        """
        earlier = tuple(map(GateRecord.from_json, event.records))
        reading = read_confidence(event.best_of_n)
        usage = None if event.usage is None else Usage(**event.usage)
        record = decide(self.gate_policy, reading, earlier, usage=usage)
        if record.action == "raise":
            raise_gate_error((*earlier, record))
        records = [*event.records, record.to_json()]
        if record.action == "accept":
            return ConfidentEvent(query=event.query, answer=event.answer, records=records)
        return UnsureEvent(
            query=event.query,
            answer=event.answer,
            action=record.action,
            reason=record.reason,
            settings=retry_settings(self.gate_policy, reading) if record.action == "retry" else {},
            records=records,
        )
