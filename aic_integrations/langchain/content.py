"""The text of LangChain's messages, whatever provider they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from selfeval_backend.errors import ConfigurationError

__all__ = ["text_of"]

_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "text-plain": "text",
    "refusal": "refusal",
}
"""Blocks of text, and under which key it stands."""

_TURNED_AWAY = ("image_generation_call",)
"""What looks like work, and is an image."""

_THOUGHT = re.compile(r"thinking|thought|reasoning|^signature")

_WORK = re.compile(
    r"_use$|_call$|_call_(?:chunk|output)$|_result$|_search_output$|_delta$|^mcp_|^code_execution"
    r"|^executable_code$|^container_upload$|^compaction$"
)
"""Calls of tools, the provider's own with their results, and what streams leave behind."""

_UNREADABLE = "Images, audio, files and other blocks are not supported: send text."


def text_of(message: BaseMessage, field: str) -> str:
    """Return the text of a message.

    Of an earlier answer, whoever gave it, what was thought and what the provider's own tools did is
    left out; calls of tools stand beside the content. Marks for caches are left out of any message.

    Args:
        message: Its content is text, or a list of blocks.
        field: How the content is called in errors.

    Raises:
        ConfigurationError: A block cannot be read; names it.
    """
    by_model = isinstance(message, AIMessage)
    if isinstance(message.content, str):
        text = message.content
    else:
        text = "".join(
            _block_text(block, f"{field}[{place}]", by_model=by_model)
            for place, block in enumerate(message.content)
        )
    refusal = message.additional_kwargs.get("refusal") if by_model else None
    return text or (refusal if isinstance(refusal, str) else "")


def _block_text(block: str | Mapping[Any, Any], field: str, *, by_model: bool) -> str:
    if isinstance(block, str):
        return block
    kind = _kind(block)
    if kind == "non_standard" and isinstance(block.get("value"), Mapping):
        return _block_text(block["value"], f"{field}.value", by_model=by_model)
    if kind == "cache_point" or (by_model and _is_skipped(block, kind)):
        return ""
    if kind in _TEXTS:
        return _known_text(block, _TEXTS[kind], field)
    if kind == "search_result" and isinstance(block.get("content"), list):
        parts = enumerate(block["content"])
        return "".join(_block_text(p, f"{field}.content[{i}]", by_model=by_model) for i, p in parts)
    if kind == "document" and (text := _text_of_document(block)) is not None:
        return text
    raise ConfigurationError(f"{field}.type", kind, "a block of text", remedy=_UNREADABLE)


def _kind(block: Mapping[Any, Any]) -> str:
    """Return a block's type; where it has none, what it holds, as Bedrock writes it."""
    kind = str(block.get("type") or next(iter(block), "an empty block"))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def _is_skipped(block: Mapping[Any, Any], kind: str) -> bool:
    if kind in _TURNED_AWAY:
        return False
    return bool(block.get("thought") or _THOUGHT.search(kind) or _WORK.search(kind))


def _known_text(block: Mapping[Any, Any], key: str, field: str) -> str:
    text = block.get(key)
    if not isinstance(text, str):
        raise ConfigurationError(f"{field}.{key}", text, "a block of text", remedy=_UNREADABLE)
    return text


def _text_of_document(block: Mapping[Any, Any]) -> str | None:
    """Return what a document says that is no file: its text stands in it."""
    source = block.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "text":
        return None
    text = source.get("data")
    return text if isinstance(text, str) else None
