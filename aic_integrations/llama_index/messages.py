"""LlamaIndex's messages and our own, both ways."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection

from selfeval_backend.chat import CheckedMessages, Message, Parsed, Role, ToolCall, check_messages
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome, to_json

__all__ = [
    "Piece",
    "content",
    "to_chat_response",
    "to_chat_step",
    "to_completion_response",
    "to_completion_step",
    "to_messages",
    "to_turns",
    "tool_calls",
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
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}

_NO_TEXT = (ThinkingBlock, ToolCallBlock, CitationBlock)
"""Blocks of an answer that are no text of it: thoughts, calls, and what its text refers to."""


def to_messages(messages: Sequence[ChatMessage]) -> CheckedMessages:
    """Turn LlamaIndex's messages into a conversation that can be answered.

    Several blocks of text are joined by a line break, as `ChatMessage.content` does it. What a
    model thought at an earlier turn is left out, as chat templates want it, and so are marks for
    caches and citations. Its calls of tools are taken from the blocks, else from where the LLMs of
    other providers leave them.

    Raises:
        ConfigurationError: A message or a block is of a kind that this release does not take, or
            nothing is asked; names it and what to do.
    """
    return check_messages(to_turns(messages))


def to_turns(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Turn LlamaIndex's messages into turns, wherever they end: those before a question, too.

    Raises:
        ConfigurationError: A message or a block is of a kind that this release does not take.
    """
    return tuple(_turn(message, place) for place, message in enumerate(messages))


def _turn(message: ChatMessage, place: int) -> Message:
    field = f"messages[{place}]"
    role = _ROLES[message.role]
    text = _text(message, role, field)
    if role == "tool":
        about = message.additional_kwargs
        return Message(
            role=role,
            content=text,
            tool_call_id=about.get("tool_call_id"),
            name=about.get("name"),
        )
    return Message(role=role, content=text, tool_calls=_calls(message, role, field))


def _calls(message: ChatMessage, role: Role, field: str) -> tuple[ToolCall, ...]:
    if role != "assistant":
        return ()
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return tuple(_block_call(block, f"{field}.blocks.{block.tool_name}") for block in blocks)
    told = message.additional_kwargs.get("tool_calls") or ()
    field = f"{field}.additional_kwargs['tool_calls']"
    return tuple(_told_call(call, f"{field}[{number}]") for number, call in enumerate(told))


def _block_call(block: ToolCallBlock, field: str) -> ToolCall:
    arguments = _arguments(block.tool_kwargs, f"{field}.tool_kwargs")
    # One without an id is given one in the prompt.
    return ToolCall(id=block.tool_call_id or "", name=block.tool_name, arguments=arguments)


def _told_call(call: object, field: str) -> ToolCall:
    """Read a call that another provider's LLM left beside the blocks, in its API's form."""
    function = _part_of(call, "function") or call
    name = _part_of(function, "name")
    arguments = _part_of(function, "arguments")
    if not isinstance(name, str):
        raise ConfigurationError(
            field, call, "a call as OpenAI's or Anthropic's API writes it, or a ToolCallBlock"
        )
    found = _part_of(call, "input") if arguments is None else arguments
    call_id = _part_of(call, "id")
    return ToolCall(
        id=call_id if isinstance(call_id, str) else "",
        name=name,
        arguments=_arguments({} if found is None else found, f"{field}.arguments"),
    )


def _part_of(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _arguments(given: object, field: str) -> dict[str, Any]:
    found = given
    if isinstance(found, str):
        try:
            found = json.loads(found or "{}")
        except ValueError as error:
            raise ConfigurationError(field, given, "JSON") from error
    if not isinstance(found, dict):
        raise ConfigurationError(field, given, "a JSON object")
    return found


def _text(message: ChatMessage, role: Role, field: str) -> str:
    numbered = enumerate(message.blocks)
    texts = [_block_texts(block, role, f"{field}.blocks[{number}]") for number, block in numbered]
    return "\n".join(text for of_block in texts for text in of_block)


def _block_texts(block: Any, role: Role, field: str) -> list[str]:
    """Return the texts in a block; none of what is no part of a conversation."""
    if isinstance(block, TextBlock):
        return [block.text]
    if isinstance(block, CachePoint) or (role == "assistant" and isinstance(block, _NO_TEXT)):
        return []
    if isinstance(block, CitableBlock):
        inner = enumerate(block.content)
        texts = [_block_texts(part, role, f"{field}.content[{i}]") for i, part in inner]
        return [text for of_part in texts for text in of_part]
    if isinstance(block, CitationBlock):
        return _block_texts(block.cited_content, role, f"{field}.cited_content")
    raise ConfigurationError(
        field,
        block.block_type,
        "a block of text",
        remedy="Images, audio, video, documents and other blocks are not supported: send text.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One step of a stream."""

    delta: str
    """What is new."""
    text: str
    """All of it so far."""
    thinking_delta: str = ""
    """What is new of what the model thought."""
    thinking: str = ""
    """All of that so far."""
    answer: Answer | None = None
    """At the last step."""
    best_of_n: dict[str, Any] = field(default_factory=dict)
    """At the last step: see `selfeval_backend.Answer.summary`."""


def to_chat_step(piece: Piece) -> ChatResponse:
    """Return a step of a streamed chat; usage and facts stand on the last one alone.

    What is new of what the model thought stands where LlamaIndex's agents look for it:
    ``additional_kwargs["thinking_delta"]``.
    """
    response = (
        ChatResponse(message=_shown(piece.text, thinking=piece.thinking))
        if piece.answer is None
        else to_chat_response(piece.answer, best_of_n=piece.best_of_n)
    )
    response.delta = piece.delta
    if piece.thinking_delta:
        response.additional_kwargs["thinking_delta"] = piece.thinking_delta
    return response


def _shown(text: str, *, thinking: str) -> ChatMessage:
    blocks = [*_thinking_blocks(thinking), TextBlock(text=text)]
    return ChatMessage(role=MessageRole.ASSISTANT, content=blocks)


def _thinking_blocks(thinking: str | None) -> list[ThinkingBlock]:
    return [ThinkingBlock(content=thinking)] if thinking else []


def to_completion_step(piece: Piece) -> CompletionResponse:
    """Return a step of a streamed completion; usage and facts stand on the last one alone."""
    response = (
        CompletionResponse(text=piece.text)
        if piece.answer is None
        else to_completion_response(piece.answer, best_of_n=piece.best_of_n)
    )
    response.delta = piece.delta
    return response


def content(answer: Answer) -> str:
    """Return the text of an answer, without what was thought before it and calls of tools."""
    return answer.text if answer.parsed is None else answer.parsed.text


def tool_calls(message: ChatMessage) -> list[ToolSelection]:
    """Return the calls of tools in a message, in order."""
    return [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=_arguments(block.tool_kwargs, f"{block.tool_name}.tool_kwargs"),
        )
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]


def _message(answer: Answer) -> ChatMessage:
    parsed = answer.parsed or Parsed(text=answer.text)
    blocks: list[Any] = [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=dict(call.arguments))
        for call in parsed.tool_calls
    ]
    if parsed.text or not blocks:
        blocks.insert(0, TextBlock(text=parsed.text))
    return ChatMessage(
        role=MessageRole.ASSISTANT,
        content=[*_thinking_blocks(parsed.reasoning), *blocks],
        additional_kwargs=_calls_told(parsed),
    )


def _calls_told(parsed: Parsed) -> dict[str, Any]:
    """Return calls as OpenAI's API writes them, where streams of objects look; and broken ones."""
    told: dict[str, Any] = {}
    if parsed.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for call in parsed.tool_calls
        ]
    if parsed.invalid_tool_calls:
        told["invalid_tool_calls"] = [to_json(call) for call in parsed.invalid_tool_calls]
    return told


def to_chat_response(answer: Answer, *, best_of_n: dict[str, Any]) -> ChatResponse:
    """Turn an answer into the response that a chat gets.

    Args:
        answer: The chosen response becomes the message, calls of tools in it and what was thought
            before them its blocks; what looks like a call and is none stands in its
            ``additional_kwargs``.
        best_of_n: How it was come by; see `selfeval_backend.Answer.summary`.
    """
    return ChatResponse(
        message=_message(answer),
        raw=_raw(answer, best_of_n),
        additional_kwargs=_counts(answer.outcome, best_of_n),
    )


def to_completion_response(answer: Answer, *, best_of_n: dict[str, Any]) -> CompletionResponse:
    """Turn an answer into the response that a completion gets; as `to_chat_response`.

    A completion has no blocks: what was thought stands in ``additional_kwargs["thinking"]``.
    """
    thinking = None if answer.parsed is None else answer.parsed.reasoning
    counts = _counts(answer.outcome, best_of_n)
    return CompletionResponse(
        text=content(answer),
        raw=_raw(answer, best_of_n),
        additional_kwargs={**counts, "thinking": thinking} if thinking else counts,
    )


def usage(outcome: Outcome) -> dict[str, Any]:
    """Return everything that a run paid for, under the names that OpenAI's API uses.

    LlamaIndex's token counting reads them. Each token stands once among the details.
    """
    paid = outcome.usage
    return {
        "prompt_tokens": paid.input_tokens,
        "completion_tokens": paid.generated_tokens,
        "total_tokens": paid.input_tokens + paid.generated_tokens,
        "prompt_tokens_details": {
            "cached_tokens": paid.cached_input_tokens,
            "self_evaluation_tokens": paid.self_evaluation_tokens,
        },
        "completion_tokens_details": {
            f"{fate}_tokens": tokens for fate, tokens in outcome.generated_tokens_by_fate().items()
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
