"""A chat model whose confidences are scripted, for tests of the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field


@dataclass(frozen=True)
class Scripted:
    """One answer."""

    confidence: float | None
    """None: a message without `best_of_n`, as other models give it."""
    content: str = ""
    """Empty: "answer N", from 0."""
    calibrated: bool = True
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: bool = True
    """Whether it says what was paid for: 10 tokens in, 4 of them cached, and N + 1 out."""


@dataclass
class Calls:
    """What a model was asked."""

    messages: list[Sequence[BaseMessage]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.messages)


class ConfidentModel(BaseChatModel):
    """Gives its answers one after another, and the last one again and again."""

    answers: tuple[Scripted, ...]
    calls: Calls = Field(default_factory=Calls)
    label: str = "double"
    max_samples: int = 4

    def __init__(self, *confidences: float | Scripted | None, **fields: Any) -> None:
        answers = [c if isinstance(c, Scripted) else Scripted(c) for c in confidences]
        super().__init__(**{"answers": tuple(answers), **fields})

    @property
    def _llm_type(self) -> str:
        return "confident"

    def _next(self, messages: Sequence[BaseMessage], settings: dict[str, Any]) -> AIMessage:
        number = self.calls.count
        self.calls.messages.append(messages)
        self.calls.settings.append(settings)
        answer = self.answers[min(number, len(self.answers) - 1)]
        metadata: dict[str, Any] = {"model_name": self.label}
        if answer.confidence is not None:
            metadata["best_of_n"] = {
                "confidence": answer.confidence,
                "calibrated": answer.calibrated,
                "policy": {
                    "max_samples": settings.get("max_samples", self.max_samples),
                    "threshold": settings.get("threshold", 0.5),
                    "seed": settings.get("seed", 7),
                },
            }
        usage = {
            "input_tokens": 10,
            "output_tokens": number + 1,
            "total_tokens": number + 11,
            "input_token_details": {"cache_read": 4},
        }
        return AIMessage(
            content=answer.content or f"answer {number}",
            tool_calls=[dict(call) for call in answer.tool_calls],
            response_metadata=metadata,
            usage_metadata=usage if answer.usage else None,
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self._next(messages, kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(**kwargs)


class StreamingModel(ConfidentModel):
    """Streams its answers by the word, so that a stream of tokens shows which it was asked."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._next(messages, kwargs)
        for word in message.text.split():
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        last = AIMessageChunk(
            content="",
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)
