"""LlamaIndex's messages and our own, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from selfeval_backend.answers import spent
from selfeval_backend.chat import Message, Role, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome

__all__ = [
    "Piece",
    "to_chat_response",
    "to_chat_step",
    "to_completion_response",
    "to_completion_step",
    "to_conversation",
    "usage",
]

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    # What other providers call the assistant.
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def to_conversation(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Turn LlamaIndex's messages into a conversation that can be answered.

    Several blocks of text are joined by a line break, as `ChatMessage.content` does it. What a
    model thought at an earlier turn is left out, as chat templates want it.

    Raises:
        ConfigurationError: A message or a block is of a kind that this release does not take, or
            nothing is asked; names it and what to do.
    """
    conversation = tuple(
        Message(role=_role(message, place), content=_text(message, place))
        for place, message in enumerate(messages)
    )
    check_messages(conversation)
    return conversation


def _role(message: ChatMessage, place: int) -> Role:
    role = _ROLES.get(message.role)
    if role is None:
        raise ConfigurationError(
            f"messages[{place}].role",
            message.role.value,
            "a system, user or assistant message",
            remedy="Tools are not supported in this release: put the tool's result into a message "
            "of the user.",
        )
    if message.additional_kwargs.get("tool_calls"):
        _refuse_tool_call(f"messages[{place}].additional_kwargs['tool_calls']", message)
    return role


def _text(message: ChatMessage, place: int) -> str:
    texts = []
    for number, block in enumerate(message.blocks):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock) and _ROLES.get(message.role) == "assistant":
            continue
        else:
            _refuse_block(f"messages[{place}].blocks[{number}]", block)
    return "\n".join(texts)


def _refuse_block(field: str, block: Any) -> None:
    if isinstance(block, ToolCallBlock):
        _refuse_tool_call(field, block)
    raise ConfigurationError(
        field,
        block.block_type,
        "a block of text",
        remedy="Images, audio, video, documents and other blocks are not supported: send text.",
    )


def _refuse_tool_call(field: str, value: object) -> None:
    raise ConfigurationError(
        field,
        type(value).__name__,
        "a message without tool calls",
        remedy="Tools are not supported in this release: keep the message's text only.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One step of a stream."""

    delta: str
    """What is new; empty at the last step."""
    text: str
    """All of it so far."""
    answer: Answer | None = None
    """At the last step."""
    best_of_n: dict[str, Any] = field(default_factory=dict)
    """At the last step: see `selfeval_backend.answers.best_of_n`."""


def to_chat_step(piece: Piece) -> ChatResponse:
    """Return a step of a streamed chat; usage and facts stand on the last one alone."""
    response = (
        ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=piece.text))
        if piece.answer is None
        else to_chat_response(piece.answer, best_of_n=piece.best_of_n)
    )
    response.delta = piece.delta
    return response


def to_completion_step(piece: Piece) -> CompletionResponse:
    """Return a step of a streamed completion; as `to_chat_step`."""
    response = (
        CompletionResponse(text=piece.text)
        if piece.answer is None
        else to_completion_response(piece.answer, best_of_n=piece.best_of_n)
    )
    response.delta = piece.delta
    return response


def to_chat_response(answer: Answer, *, best_of_n: dict[str, Any]) -> ChatResponse:
    """Turn an answer into the response that a chat gets.

    Args:
        answer: The chosen response becomes the message.
        best_of_n: How it was come by; see `selfeval_backend.answers.best_of_n`.
    """
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=answer.text),
        raw=_raw(answer, best_of_n),
        additional_kwargs=_counts(answer.outcome, best_of_n),
    )


def to_completion_response(answer: Answer, *, best_of_n: dict[str, Any]) -> CompletionResponse:
    """Turn an answer into the response that a completion gets; as `to_chat_response`."""
    return CompletionResponse(
        text=answer.text,
        raw=_raw(answer, best_of_n),
        additional_kwargs=_counts(answer.outcome, best_of_n),
    )


def usage(outcome: Outcome) -> dict[str, Any]:
    """Return everything that a run paid for, under the names that OpenAI's API uses.

    LlamaIndex's token counting reads them; see `selfeval_backend.answers.Spent`.
    """
    counts = spent(outcome)
    return {
        "prompt_tokens": counts["input_tokens"],
        "completion_tokens": counts["output_tokens"],
        "total_tokens": counts["total_tokens"],
        "prompt_tokens_details": {
            "cached_tokens": counts["input_details"]["cache_read"],
            "self_evaluation_tokens": counts["input_details"]["self_evaluation"],
        },
        "completion_tokens_details": {
            f"{fate}_tokens": number for fate, number in counts["output_details"].items()
        },
    }


def _raw(answer: Answer, best_of_n: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": answer.model,
        "finish_reason": answer.outcome.best_sample.finish_reason,
        "usage": usage(answer.outcome),
        # An agent's output keeps `raw` alone.
        "best_of_n": best_of_n,
    }


def _counts(outcome: Outcome, best_of_n: dict[str, Any]) -> dict[str, Any]:
    counts = usage(outcome)
    return {
        **{name: counts[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
        "best_of_n": best_of_n,
    }
