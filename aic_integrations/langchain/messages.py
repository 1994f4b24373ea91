"""LangChain's messages and our own, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call as create_invalid_tool_call
from langchain_core.messages.tool import tool_call as create_tool_call

from selfeval_backend.answers import PROVIDER, best_of_n, spent
from selfeval_backend.chat import Message, Role, ToolCall, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.structured import Parsed
from selfeval_backend.types import Outcome

__all__ = [
    "PROVIDER",
    "last_chunk",
    "reasoning_chunk",
    "to_ai_message",
    "to_conversation",
    "usage_metadata",
]


REASONING_KEY = "reasoning_content"
"""Of `additional_kwargs`."""

_SKIPPED_BLOCKS = ("tool_use", "tool_call", "function_call", "invalid_tool_call", "reasoning")


def to_conversation(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Turn LangChain's messages into a conversation that can be answered.

    Raises:
        ConfigurationError: A message is of a kind that this release does not take, or nothing is
            asked; names the message and what to do.
    """
    conversation = tuple(_turn(message, place) for place, message in enumerate(messages))
    check_messages(conversation)
    return conversation


def _turn(message: BaseMessage, place: int) -> Message:
    text = _text(message, place)
    if isinstance(message, ToolMessage):
        call_id = message.tool_call_id
        return Message(role="tool", content=text, tool_call_id=call_id, name=message.name)
    if isinstance(message, FunctionMessage):
        return Message(role="tool", content=text, name=message.name)
    if isinstance(message, AIMessage):
        return _assistant_turn(message, text)
    return Message(role=_role(message, place), content=text)


def _assistant_turn(message: AIMessage, text: str) -> Message:
    calls = tuple(
        ToolCall(id=call["id"] or f"call_{index}", name=call["name"], arguments=call["args"])
        for index, call in enumerate(message.tool_calls)
    )
    # What was no call stays what the model wrote.
    broken = [call["args"] or "" for call in message.invalid_tool_calls]
    written = "\n".join(part for part in (text, *broken) if part)
    return Message(role="assistant", content=written, tool_calls=calls)


def _role(message: BaseMessage, place: int) -> Role:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, ChatMessage):
        return _named_role(message, place)
    raise ConfigurationError(
        f"messages[{place}]",
        type(message).__name__,
        "a human, system, AI or tool message",
        remedy="Leave it out, or turn it into one of them.",
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
    # Calls stand in blocks too, as the provider wrote them; those of the message are what counts.
    # What a model thought before is not shown to it again.
    skipped = _SKIPPED_BLOCKS if isinstance(message, AIMessage) else ()
    return "".join(
        _block_text(block, f"messages[{place}].content[{i}]")
        for i, block in enumerate(message.content)
        if isinstance(block, str) or block.get("type") not in skipped
    )


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
        answer: The chosen response becomes the content, and the calls of tools in it the message's.
        texts: Of all samples, in order of drawing, to stand in ``best_of_n``; None: left out.
    """
    parsed = answer.parsed or Parsed(text=answer.text)
    finish_reason = answer.outcome.best_sample.finish_reason
    return AIMessage(
        content=parsed.text,
        # Where LangChain looks for it: it makes the reasoning block of it.
        additional_kwargs=({} if parsed.reasoning is None else {REASONING_KEY: parsed.reasoning}),
        tool_calls=[
            create_tool_call(name=call.name, args=dict(call.arguments), id=call.id)
            for call in parsed.tool_calls
        ],
        invalid_tool_calls=[
            create_invalid_tool_call(name=call.name, args=call.arguments, id=None, error=call.error)
            for call in parsed.invalid_tool_calls
        ],
        response_metadata={
            "model_name": answer.model,
            "model_provider": PROVIDER,
            "finish_reason": (
                "tool_calls" if parsed.tool_calls and finish_reason == "stop" else finish_reason
            ),
            "best_of_n": best_of_n(answer, texts=texts),
        },
        usage_metadata=usage_metadata(answer.outcome),
    )


def reasoning_chunk(text: str) -> AIMessageChunk:
    """Return a chunk of reasoning."""
    return AIMessageChunk(content="", additional_kwargs={REASONING_KEY: text})


def last_chunk(message: AIMessage, *, shown: str, reasoned: str = "") -> AIMessageChunk:
    """Return the chunk that makes those before it into this message, but for its id.

    Metadata and usage stand on this one alone: merging chunks adds numbers and joins texts.

    Args:
        message: The whole.
        shown: The content of the chunks before; the message's begins with it.
        reasoned: The reasoning of the chunks before; the message's is this, if there is any.
    """
    assert not reasoned or message.additional_kwargs[REASONING_KEY] == reasoned
    more = {
        k: v for k, v in message.additional_kwargs.items() if not reasoned or k != REASONING_KEY
    }
    assert not shown or (isinstance(message.content, str) and message.content.startswith(shown))
    return AIMessageChunk(
        content=message.content[len(shown) :],
        additional_kwargs=more,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        # Whole ones: of their chunks LangChain would make calls even where they are broken off.
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
        chunk_position="last",
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
