"""LangChain's messages and our own, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from selfeval_backend.answers import PROVIDER, best_of_n, spent
from selfeval_backend.chat import Message, Role, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome

__all__ = ["PROVIDER", "to_ai_message", "to_conversation", "usage_metadata"]


def to_conversation(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Turn LangChain's messages into a conversation that can be answered.

    Raises:
        ConfigurationError: A message is of a kind that this release does not take, or nothing is
            asked; names the message and what to do.
    """
    conversation = tuple(
        Message(role=_role(message, place), content=_text(message, place))
        for place, message in enumerate(messages)
    )
    check_messages(conversation)
    return conversation


def _role(message: BaseMessage, place: int) -> Role:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, AIMessage):
        _refuse_tool_calls(message, place)
        return "assistant"
    if isinstance(message, ChatMessage):
        return _named_role(message, place)
    is_tool = isinstance(message, ToolMessage | FunctionMessage)
    raise ConfigurationError(
        f"messages[{place}]",
        type(message).__name__,
        "a human, system or AI message",
        remedy=(
            "Tools are not supported in this release: put the tool's result into a HumanMessage."
            if is_tool
            else "Leave it out, or turn it into one of them."
        ),
    )


def _refuse_tool_calls(message: AIMessage, place: int) -> None:
    if message.tool_calls or message.invalid_tool_calls:
        raise ConfigurationError(
            f"messages[{place}].tool_calls",
            message.tool_calls or message.invalid_tool_calls,
            "an AI message without tool calls",
            remedy="Tools are not supported in this release: keep the message's text only.",
        )


def _named_role(message: ChatMessage, place: int) -> Role:
    if message.role not in get_args(Role):
        raise ConfigurationError(
            f"messages[{place}].role", message.role, f"one of {', '.join(get_args(Role))}"
        )
    return cast(Role, message.role)


def _text(message: BaseMessage, place: int) -> str:
    if isinstance(message.content, str):
        return message.content
    blocks = enumerate(message.content)
    return "".join(_block_text(block, f"messages[{place}].content[{i}]") for i, block in blocks)


def _block_text(block: str | dict[Any, Any], field: str) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    text = block.get("text")
    if kind != "text" or not isinstance(text, str):
        raise ConfigurationError(
            f"{field}.type" if kind != "text" else f"{field}.text",
            kind if kind != "text" else text,
            "a block of text",
            remedy="Images, audio, files and other blocks are not supported: send text.",
        )
    return text


def to_ai_message(answer: Answer, *, texts: Sequence[str] | None) -> AIMessage:
    """Turn an answer into the message that LangChain gets.

    Args:
        answer: The chosen response becomes the content.
        texts: Of all samples, in order of drawing, to stand in ``best_of_n``; None: left out.
    """
    return AIMessage(
        content=answer.text,
        response_metadata={
            "model_name": answer.model,
            "model_provider": PROVIDER,
            "finish_reason": answer.outcome.best_sample.finish_reason,
            "best_of_n": best_of_n(answer, texts=texts),
        },
        usage_metadata=usage_metadata(answer.outcome),
    )


def usage_metadata(outcome: Outcome) -> UsageMetadata:
    """Return everything that a run paid for, each token once: `selfeval_backend.answers.Spent`."""
    counts = spent(outcome)
    return UsageMetadata(
        input_tokens=counts["input_tokens"],
        output_tokens=counts["output_tokens"],
        total_tokens=counts["total_tokens"],
        # Both take keys of a provider's own, which their types cannot say.
        input_token_details=cast(InputTokenDetails, counts["input_details"]),
        output_token_details=cast(OutputTokenDetails, counts["output_details"]),
    )
