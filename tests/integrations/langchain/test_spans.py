"""Spans of OpenTelemetry for calls of a chat model."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aic_integrations.langchain import (
    ChatAdaptive,
    ConfidenceGateChatModel,
    ConfidenceGateRunnable,
    GenAISpans,
)
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError
from tests.conftest import ModelFactory
from tests.integrations.langchain.confident_model import ConfidentModel

CHAT = ScriptedChat()


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    script = [CHAT.response("secret no", 0.2), CHAT.response("secret yes", 0.9)]
    return ChatAdaptive.from_model(
        make_model(script, repeat=True, name="double"), max_samples=2, include_samples=True
    )


def test_a_call_is_a_span_with_its_samples_as_events(llm: ChatAdaptive, spans: Spans) -> None:
    message = llm.invoke("Make 41.", config={"callbacks": [GenAISpans(spans.tracer)]})
    (span,) = spans.ended
    assert span.name == "chat double"
    assert span.attributes is not None and message.usage_metadata is not None
    assert span.attributes["gen_ai.provider.name"] == "adaptive-inference-compute"
    for name in ("input_tokens", "output_tokens"):
        assert span.attributes[f"gen_ai.usage.{name}"] == message.usage_metadata[name]  # type: ignore[literal-required]  # both are there
    assert span.attributes["aic.num_samples"] == 2
    names = [event.name for event in span.events]
    assert names == ["aic.sample", "gen_ai.evaluation.result"] * 2
    assert "secret" not in span.to_json() and "Make 41." not in span.to_json()


def test_texts_are_recorded_only_if_asked_for(llm: ChatAdaptive, spans: Spans) -> None:
    handler = GenAISpans(spans.tracer, content=True)
    llm.invoke("Make 41.", config={"callbacks": [handler]})
    assert "secret yes" in spans.ended[0].to_json()


async def test_every_attempt_of_a_gate_is_a_span(spans: Spans) -> None:
    gate = ConfidenceGateRunnable(ConfidentModel(0.1, 0.9), threshold=0.8, on_low="retry")
    await gate.ainvoke("Make 41.", config={"callbacks": [GenAISpans(spans.tracer)]})
    assert len(spans.ended) == 2


def test_an_error_ends_the_span(llm: ChatAdaptive, spans: Spans) -> None:
    config: Any = {"callbacks": [GenAISpans(spans.tracer)]}
    with pytest.raises(ConfigurationError):
        llm.invoke("", config=config)
    (span,) = spans.ended
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ConfigurationError"
    assert not span.status.is_ok


def test_a_model_of_another_kind_has_a_span_too(spans: Spans) -> None:
    ConfidentModel(None).invoke("x", config={"callbacks": [GenAISpans(spans.tracer)]})
    assert spans.ended[0].attributes is not None
    assert spans.ended[0].attributes["gen_ai.usage.output_tokens"] == 1


def test_a_gated_model_is_one_span_with_what_all_attempts_paid_for(spans: Spans) -> None:
    gate = ConfidenceGateChatModel(ConfidentModel(0.1, 0.9), threshold=0.8, on_low="retry")
    gate.invoke("Make 41.", config={"callbacks": [GenAISpans(spans.tracer)]})
    (span,) = spans.ended
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.input_tokens"] == 20
    assert span.attributes["gen_ai.usage.cache_read.input_tokens"] == 8
    assert span.attributes["gen_ai.usage.output_tokens"] == 1 + 2
