"""From a response's text to calls of tools: in plain JSON, or in a model's own words by vLLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfeval_backend.chat import Chat, ChatTemplate, ToolSpec
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.forks import Lock

__all__ = ["Found", "PlainToolParser", "RawCall", "ToolParser", "load_tool_parser", "read_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCall:
    """What looks like a call, unchecked."""

    name: str | None
    arguments: Any
    """JSON value, or the text that is none."""
    error: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a parser found in a text."""

    text: str
    """What is not of a call."""
    calls: tuple[RawCall, ...] = ()


class ToolParser(Protocol):
    """Finds calls in a response that was free to have none."""

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether the text has to hold special tokens."""
        ...

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text; what merely looks like one has an error."""
        ...

    def settled(self, text: str) -> str:
        """Return what of a growing text will stand in `Found.text`, at its beginning."""
        ...


class PlainToolParser:
    """Finds calls in plain JSON: ``{"name": ..., "arguments": {...}}``, or a list of them.

    They are the whole text, or all of one fenced block in it. JSON that is no call is text.
    """

    keeps_special_tokens = False

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text."""
        around, body = _unfenced(text.strip())
        if not body.startswith(("{", "[")):
            return Found(text=text)
        try:
            value = json.loads(body)
        except ValueError as error:
            if '"name"' in body and '"arguments"' in body:
                broken = RawCall(name=None, arguments=body, error=f"it is no JSON: {error}")
                return Found(text=around, calls=(broken,))
            return Found(text=text)
        calls = read_calls(value)
        return Found(text=around, calls=calls) if calls else Found(text=text)

    def settled(self, text: str) -> str:
        """Return what stands in front of a fence, or nothing where the text begins as JSON."""
        before, fence, _ = text.partition("```")
        if before.lstrip().startswith(("{", "[")):
            return ""
        return before if fence else before.rstrip("`")


def read_calls(value: object) -> tuple[RawCall, ...]:
    """Return the calls that a JSON value holds; none if anything else is in it."""
    items: list[object] = value if isinstance(value, list) else [value]
    calls = [
        RawCall(name=item["name"], arguments=item["arguments"])
        for item in items
        if isinstance(item, dict) and item.keys() == {"name", "arguments"}
    ]
    return tuple(calls) if len(calls) == len(items) else ()


def _unfenced(text: str) -> tuple[str, str]:
    """Return what stands around a fenced block, and what is in it; or nothing, and the text."""
    before, fence, rest = text.partition("```")
    body, closing, after = rest.partition("```")
    if not fence or not closing:
        return "", text
    language, newline, inside = body.partition("\n")
    if not newline or language.strip() not in ("", "json"):
        return "", text
    return f"{before.strip()}\n{after.strip()}".strip(), inside.strip()


class VllmToolParser:
    """One of vLLM's own parsers, for a model that calls tools in its own words.

    Args:
        name: As in vLLM's ``--tool-call-parser``: "hermes", "llama3_json", ...
        tokenizer: The model's.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the tokenizer.
        MissingDependencyError: vLLM is not installed.
    """

    keeps_special_tokens = True

    def __init__(self, name: str, tokenizer: Any) -> None:
        try:
            from vllm.tool_parsers import ToolParserManager
        except ImportError as error:
            raise MissingDependencyError("vllm", extra="vllm") from error
        try:
            made = ToolParserManager.get_tool_parser(name)
        except KeyError as error:
            known = ", ".join(ToolParserManager.list_registered())
            raise ConfigurationError("tool_parser", name, f"one of vLLM's: {known}") from error
        try:
            self._parser = made(tokenizer)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                "tool_parser", name, "one for this model", remedy=f"vLLM says: {error}"
            ) from error
        self._lock = Lock()

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest.model_validate(
            {
                "messages": [],
                "model": "",
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": tool.name,
                            "description": tool.description,
                            "parameters": dict(tool.parameters),
                        },
                    }
                    for tool in tools
                ],
            }
        )
        with self._lock:  # it keeps a state
            found = self._parser.extract_tool_calls(text, request)
        calls = tuple(_of_vllm(call.function) for call in found.tool_calls)
        return Found(text=found.content or "", calls=calls)

    def settled(self, text: str) -> str:
        """Return nothing: where calls begin is the parser's own, and it reads a whole."""
        return ""


def _of_vllm(function: Any) -> RawCall:
    try:
        return RawCall(name=function.name, arguments=json.loads(function.arguments))
    except ValueError as error:
        problem = f"its arguments are no JSON: {error}"
        return RawCall(name=function.name, arguments=function.arguments, error=problem)


def load_tool_parser(name: str | None, chat: Chat) -> ToolParser:
    """Return a parser.

    Args:
        name: One of vLLM's ("hermes", "llama3_json", ...); None: plain JSON.
        chat: The model's.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the model.
        MissingDependencyError: vLLM is not installed.
    """
    if name is None:
        return PlainToolParser()
    if not isinstance(chat, ChatTemplate):
        raise ConfigurationError("tool_parser", name, "none for a model without a tokenizer")
    return VllmToolParser(name, chat.tokenizer)
