"""`GenAISpans`: a callback handler that gives each call of a chat model a span of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from selfeval_backend.telemetry import call_attributes, sample_events

__all__ = ["GenAISpans"]


class GenAISpans(BaseCallbackHandler):
    """Gives each call of an adaptive chat model a span, and each of its samples an event in it.

    ::

        llm.invoke(prompt, config={"callbacks": [GenAISpans()]})

    Names are those of `selfeval_backend.telemetry`. Calls of other models get a span with no more
    than their model's name and what they paid for.

    Args:
        tracer: Where spans go; None: to the process's own tracer provider.
        content: Whether the texts of samples are recorded, where ``include_samples`` has them.
    """

    def __init__(self, tracer: Tracer | None = None, *, content: bool = False) -> None:
        self._tracer = tracer or trace.get_tracer("adaptive-inference-compute")
        self._content = content
        self._open: dict[UUID, Span] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start the span; the one that is current is its parent."""
        known = metadata or {}
        model = str(known.get("ls_model_name") or "")
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        if known.get("ls_provider"):
            attributes["gen_ai.provider.name"] = str(known["ls_provider"])
        self._open[run_id] = self._tracer.start_span(f"chat {model}".strip(), attributes=attributes)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Put the outcome into the span, and end it."""
        span = self._open.pop(run_id, None)
        if span is None:
            return
        for generation in response.generations[0] if response.generations else ():
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                self._describe(span, generation.message)
        span.end()

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Put the error into the span, and end it."""
        span = self._open.pop(run_id, None)
        if span is None:
            return
        span.set_attribute("error.type", type(error).__qualname__)
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    def _describe(self, span: Span, message: AIMessage) -> None:
        summary = message.response_metadata.get("best_of_n")
        model = str(message.response_metadata.get("model_name") or "")
        if isinstance(summary, Mapping):
            span.set_attributes(call_attributes(summary, model=model))
            for event in sample_events(summary, content=self._content):
                span.add_event(event.name, event.attributes)
        elif model:
            span.set_attribute("gen_ai.response.model", model)
        if message.usage_metadata is not None:  # behind a gate, of all attempts
            span.set_attributes(_paid(message.usage_metadata))


def _paid(usage: UsageMetadata) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage.get("input_token_details", {}).get(
            "cache_read", 0
        ),
        "gen_ai.usage.output_tokens": usage["output_tokens"],
    }
