"""The gate as a step of a workflow."""

from __future__ import annotations

import pytest
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

from aic_integrations.llama_index import (
    AdaptiveLLM,
    AnsweredEvent,
    ConfidenceGateStep,
    ConfidentEvent,
    UnsureEvent,
    best_of_n_settings,
    collect_best_of_n,
)
from selfeval_backend.errors import MissingConfidenceError
from selfeval_backend.gate import GatePolicy

HINTS = ("", "He wrote it. ")


class Ask(ConfidenceGateStep, Workflow):
    """Asks again with a hint where the first answer is unsure."""

    gate_policy = GatePolicy(threshold=0.8, on_low=("retry", "refuse"))
    llm: AdaptiveLLM
    hints = HINTS

    @step
    async def ask(self, event: StartEvent | UnsureEvent) -> AnsweredEvent | StopEvent:
        if isinstance(event, UnsureEvent) and event.action != "retry":
            return StopEvent(result=event)
        again = isinstance(event, UnsureEvent)
        records = event.records if again else []
        with (
            collect_best_of_n() as collected,
            best_of_n_settings(**(event.settings if again else {})),
        ):
            answer = await self.llm.acomplete(f"{self.hints[len(records)]}{event.query}")
        return AnsweredEvent.of(event.query, answer.text, collected, records)

    @step
    async def done(self, event: ConfidentEvent) -> StopEvent:
        return StopEvent(result=event)


async def test_a_retry_that_passes(llm: AdaptiveLLM) -> None:
    workflow = Ask()
    workflow.llm = llm
    event = await workflow.run(query="Who?")
    assert isinstance(event, ConfidentEvent)
    assert event.answer == "He did"
    assert [record["action"] for record in event.records] == ["retry", "accept"]
    assert all(record["usage"]["generated_tokens"] > 0 for record in event.records)


async def test_one_that_does_not(llm: AdaptiveLLM) -> None:
    workflow = Ask()
    workflow.llm, workflow.hints = llm, ("", "")
    event = await workflow.run(query="Who?")
    assert isinstance(event, UnsureEvent)
    assert event.action == "refuse"
    assert event.reason == "confidence 0.300 is below threshold 0.8"
    assert len(event.records) == 2


async def test_a_missing_confidence_raises(llm: AdaptiveLLM) -> None:
    class Silent(ConfidenceGateStep, Workflow):
        gate_policy = GatePolicy(threshold=0.0)

        @step
        async def ask(self, event: StartEvent) -> AnsweredEvent:
            return AnsweredEvent(query="Who?", answer="He did", best_of_n=None)

        @step
        async def done(self, event: ConfidentEvent | UnsureEvent) -> StopEvent:
            return StopEvent(result=event)

    with pytest.raises(MissingConfidenceError):
        await Silent().run()
