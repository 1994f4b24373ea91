"""From a response's text to what the model thought and what it answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from selfeval_backend.chat import Chat, ChatTemplate, Message, ToolSpec
from selfeval_backend.engine.base import Grammar
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.forks import Lock
from selfeval_backend.structured.forms import AnswerForm, Parsed

__all__ = ["ReasoningForm", "ReasoningParser", "Thought", "load_reasoning_parser"]

OWN = "think"
"""The name of the parser that needs no vLLM."""

_BEGIN, _END = "<think>", "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """The two parts of a response, without what delimits them."""

    reasoning: str
    answer: str


class ReasoningParser(Protocol):
    """Tells a response's reasoning from its answer."""

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether the text has to hold special tokens."""
        ...

    def split(self, text: str) -> Thought:
        """Return the parts of a whole response."""
        ...

    def settled(self, text: str) -> Thought:
        """Return what of a growing response will stand in each part, at its beginning."""
        ...


class ThinkTags:
    """Reads ``<think>...</think>`` in front of the answer.

    Args:
        opened: Whether the prompt ends with ``<think>``, so that a response begins as reasoning.
    """

    keeps_special_tokens = False

    def __init__(self, *, opened: bool = False) -> None:
        self._opened = opened

    def split(self, text: str) -> Thought:
        """Return the parts of a whole response; without an end all of it is reasoning."""
        body = text.lstrip()
        if not body.startswith(_BEGIN) and not self._opened:
            return Thought(reasoning="", answer=text)
        reasoning, _, answer = body.removeprefix(_BEGIN).partition(_END)
        return Thought(reasoning=reasoning.strip(), answer=answer.strip())

    def settled(self, text: str) -> Thought:
        """Return what of a growing response is certain: no tag that is not whole."""
        if _BEGIN.startswith(text.lstrip()):
            return Thought(reasoning="", answer="")
        if _END in text:
            return self.split(text)
        parts = self.split(text)
        return replace(parts, reasoning=_without_beginning_of(_END, parts.reasoning))


def _without_beginning_of(tag: str, text: str) -> str:
    """Return a text without what may become a tag at its end."""
    cut = next(n for n in range(len(tag) - 1, -1, -1) if text.endswith(tag[:n]))
    return text[: len(text) - cut]


class VllmReasoningParser:
    """One of vLLM's own parsers.

    Args:
        name: As in vLLM's ``--reasoning-parser``: "qwen3", "deepseek_r1", ...
        tokenizer: The model's.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the tokenizer.
        MissingDependencyError: vLLM is not installed.
    """

    keeps_special_tokens = True

    def __init__(self, name: str, tokenizer: Any) -> None:
        try:
            from vllm.reasoning import ReasoningParserManager
        except ImportError as error:
            raise MissingDependencyError("vllm", extra="vllm") from error
        try:
            made = ReasoningParserManager.get_reasoning_parser(name)
        except KeyError as error:
            known = ", ".join(ReasoningParserManager.list_registered())
            raise ConfigurationError(
                "reasoning_parser", name, f'"{OWN}", or one of vLLM\'s: {known}'
            ) from error
        try:
            self._parser = made(tokenizer)
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigurationError(
                "reasoning_parser", name, "one for this model", remedy=f"vLLM says: {error}"
            ) from error
        self._lock = Lock()

    def split(self, text: str) -> Thought:
        """Return the parts of a whole response."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest.model_validate({"messages": [], "model": ""})
        with self._lock:  # it may keep a state
            reasoning, answer = self._parser.extract_reasoning(text, request)
        return Thought(reasoning=(reasoning or "").strip(), answer=(answer or "").strip())

    def settled(self, text: str) -> Thought:
        """Return nothing: where reasoning ends is the parser's own, and it reads a whole."""
        return Thought(reasoning="", answer="")


@dataclass(frozen=True, kw_only=True)
class ReasoningForm:
    """An answer that a model may think before; its samples are drawn freely.

    A response with no answer in it (it was cut while the model thought) is not of the form.
    """

    parser: ReasoningParser
    inner: AnswerForm | None = None
    """What the answer must be, without a grammar; None: text."""

    @property
    def grammar(self) -> Grammar | None:
        """None: under a grammar there is no room for reasoning."""
        return None

    @property
    def shown(self) -> tuple[ToolSpec, ...]:
        """Tools that the prompt shows."""
        return () if self.inner is None else self.inner.shown

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether `parse` takes a text with special tokens."""
        of_inner = self.inner is not None and self.inner.keeps_special_tokens
        return of_inner or self.parser.keeps_special_tokens

    def parse(self, text: str) -> Parsed:
        """Read a whole response."""
        parts = self.parser.split(text)
        reasoning = parts.reasoning or None
        if text.strip() and not parts.answer.strip():
            return Parsed(
                text="", reasoning=reasoning, error="it has no answer behind its reasoning"
            )
        answer = Parsed(text=parts.answer) if self.inner is None else self.inner.parse(parts.answer)
        return replace(answer, reasoning=reasoning)

    def settled(self, text: str) -> str:
        """Return what of a growing response will stand in `Parsed.text`, at its beginning."""
        answer = self.parser.settled(text).answer
        return answer if self.inner is None else self.inner.settled(answer)

    def settled_reasoning(self, text: str) -> str:
        """Return what of a growing response will stand in `Parsed.reasoning`, at its beginning."""
        return self.parser.settled(text).reasoning


def load_reasoning_parser(name: str, chat: Chat) -> ReasoningParser:
    """Return a parser.

    Args:
        name: "think", for ``<think>...</think>``; or one of vLLM's ("qwen3", "deepseek_r1", ...).
        chat: The model's. Whether its prompts end with ``<think>`` is tried.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the model.
        MissingDependencyError: vLLM is not installed.
    """
    if name == OWN:
        prompt_ids = chat.prompt_ids([Message(role="user", content="?")])
        prompt = chat.decode(prompt_ids, keep_special_tokens=True)
        return ThinkTags(opened=prompt.rstrip().endswith(_BEGIN))
    if not isinstance(chat, ChatTemplate):
        raise ConfigurationError(
            "reasoning_parser", name, f'"{OWN}" for a model without a tokenizer'
        )
    return VllmReasoningParser(name, chat.tokenizer)
