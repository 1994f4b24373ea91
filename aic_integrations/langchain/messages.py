"""LangChain's messages and our own, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast, get_args

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
from langchain_core.messages.tool import ToolCall as LangChainToolCall
from langchain_core.messages.tool import invalid_tool_call as create_invalid_tool_call
from langchain_core.messages.tool import tool_call as create_tool_call

from aic_integrations.langchain.content import text_of
from selfeval_backend.chat import CheckedMessages, Message, Parsed, Role, ToolCall, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome, Usage

__all__ = [
    "PROVIDER",
    "last_chunk",
    "reasoning_chunk",
    "to_ai_message",
    "to_messages",
    "to_turns",
    "to_usage",
    "to_usage_metadata",
    "usage_metadata",
]

PROVIDER = "adaptive-inference-compute"
"""How this project is called among providers of models."""


REASONING_KEY = "reasoning_content"
"""Of `additional_kwargs`."""

_OTHERS_ROLES: dict[str, Role] = {
    "developer": "system",
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "function": "tool",
}
"""What other providers call them."""


def to_messages(messages: Sequence[BaseMessage]) -> CheckedMessages:
    """Turn LangChain's messages into a conversation that can be answered.

    Raises:
        ConfigurationError: A message is of a kind that this release does not take, or nothing is
            asked; names the message and what to do.
    """
    return check_messages(to_turns(messages))


def to_turns(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Turn LangChain's messages into turns, wherever they end: those before a question, too.

    Raises:
        ConfigurationError: A message is of a kind that this release does not take; names it.
    """
    return tuple(_turn(message, place) for place, message in enumerate(messages))


def _turn(message: BaseMessage, place: int) -> Message:
    text = text_of(message, f"messages[{place}].content")
    if isinstance(message, ToolMessage):
        call_id = message.tool_call_id
        return Message(role="tool", content=text, tool_call_id=call_id, name=message.name)
    if isinstance(message, FunctionMessage):
        return Message(role="tool", content=text, name=message.name)
    if isinstance(message, AIMessage):
        return _assistant_turn(message, text)
    return Message(role=_role(message, place), content=text)


def _assistant_turn(message: AIMessage, text: str) -> Message:
    found = [*message.tool_calls]
    # What was no call stays what the model wrote.
    broken = [call["args"] or "" for call in message.invalid_tool_calls]
    if not found and not broken:
        found, broken = _function_calls(message)
    calls = tuple(
        # One without an id is given one in the prompt.
        ToolCall(id=call["id"] or "", name=call["name"], arguments=call["args"])
        for call in found
    )
    written = "\n".join(part for part in (text, *broken) if part)
    return Message(role="assistant", content=written, tool_calls=calls)


def _function_calls(message: AIMessage) -> tuple[list[LangChainToolCall], list[str]]:
    """Return the call of a message in the form before there were calls of tools, or its text."""
    found = message.additional_kwargs.get("function_call")
    if not isinstance(found, dict):
        return [], []
    name, arguments = str(found.get("name", "")), str(found.get("arguments", ""))
    try:
        args = json.loads(arguments or "{}")
    except ValueError:
        return [], [arguments]
    if not isinstance(args, dict):
        return [], [arguments]
    return [create_tool_call(name=name, args=args, id=None)], []


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
    if message.role in _OTHERS_ROLES:
        return _OTHERS_ROLES[message.role]
    if message.role not in get_args(Role):
        raise ConfigurationError(
            f"messages[{place}].role", message.role, f"one of {', '.join(get_args(Role))}"
        )
    return cast(Role, message.role)


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
            "best_of_n": answer.summary(texts=texts),
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
    """Return everything that a run paid for, each token once.

    The output's details are what became of it: `chosen`, `discarded`, `pruned`, `aborted`.
    """
    details = cast(OutputTokenDetails, outcome.generated_tokens_by_fate())
    return {**to_usage_metadata(outcome.usage), "output_token_details": details}


def to_usage_metadata(usage: Usage) -> UsageMetadata:
    """Return what was paid for in LangChain's shape.

    The input's details are `cache_read`, read from the KV cache, and `self_evaluation`, computed
    for self-evaluations, so that no token stands in two of them.
    """
    details = {
        "cache_read": usage.cached_input_tokens,
        "self_evaluation": usage.self_evaluation_tokens,
    }
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=usage.input_tokens + usage.generated_tokens,
        # It takes keys of a provider's own, which its type cannot say.
        input_token_details=cast(InputTokenDetails, details),
    )


def to_usage(metadata: UsageMetadata) -> Usage:
    """Return what a model of any provider says that it was paid for."""
    details = cast(Mapping[str, int], metadata.get("input_token_details", {}))
    self_evaluation = details.get("self_evaluation", 0)
    return Usage(
        prompt_tokens=metadata["input_tokens"] - self_evaluation,
        cached_prompt_tokens=details.get("cache_read", 0),
        generated_tokens=metadata["output_tokens"],
        self_evaluation_tokens=self_evaluation,
    )
