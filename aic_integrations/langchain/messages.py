"""LangChain's messages and our own, both ways."""

from __future__ import annotations

import json
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
from langchain_core.messages.tool import tool_call_chunk

from selfeval_backend.chat import Message, Role, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome

__all__ = ["PROVIDER", "last_chunk", "to_ai_message", "to_conversation", "usage_metadata"]

PROVIDER = "adaptive-inference-compute"


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
    best_of_n = answer.summary()
    if texts is not None:
        best_of_n["texts"] = list(texts)
    return AIMessage(
        content=answer.text,
        response_metadata={
            "model_name": answer.model,
            "model_provider": PROVIDER,
            "finish_reason": answer.outcome.best_sample.finish_reason,
            "best_of_n": best_of_n,
        },
        usage_metadata=usage_metadata(answer.outcome),
    )


def last_chunk(message: AIMessage, *, shown: str) -> AIMessageChunk:
    """Return the chunk that makes those before it into this message, but for its id.

    Metadata and usage stand on this one alone: merging chunks adds numbers and joins texts.

    Args:
        message: The whole.
        shown: The content of the chunks before; the message's begins with it.
    """
    assert isinstance(message.content, str) and message.content.startswith(shown)
    return AIMessageChunk(
        content=message.content[len(shown) :],
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        tool_call_chunks=[
            tool_call_chunk(name=c["name"], args=json.dumps(c["args"]), id=c["id"], index=place)
            for place, c in enumerate(message.tool_calls)
        ],
        chunk_position="last",
    )


def usage_metadata(outcome: Outcome) -> UsageMetadata:
    """Return everything that a run paid for, each token once.

    Input is what went into the model: the prompt once for each sample, what was sent again to go
    on with one, and for each self-evaluation the sequence that it was asked of; most of it was
    read from the KV cache, and that part is ``cache_read`` as other providers count it;
    ``self_evaluation`` is what was computed for self-evaluations, so that no token stands in two
    details. Output is what all samples generated, and its details say what became of it.
    """
    usage = outcome.usage
    self_evaluation = usage.self_evaluation_tokens + usage.cached_self_evaluation_tokens
    input_tokens = usage.prompt_tokens + usage.resent_tokens + self_evaluation
    input_details = {
        "cache_read": usage.cached_prompt_tokens
        + usage.cached_resent_tokens
        + usage.cached_self_evaluation_tokens,
        "self_evaluation": usage.self_evaluation_tokens,
    }
    output_details = {"chosen": 0, "discarded": 0, "pruned": 0, "aborted": 0}
    for sample in outcome.samples:
        fate = outcome.fate(sample.index)
        key = "discarded" if fate == "finished" else fate
        output_details[key] += sample.num_generated_tokens
    return UsageMetadata(
        input_tokens=input_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=input_tokens + usage.generated_tokens,
        # Both take keys of a provider's own, which their types cannot say.
        input_token_details=cast(InputTokenDetails, input_details),
        output_token_details=cast(OutputTokenDetails, output_details),
    )
