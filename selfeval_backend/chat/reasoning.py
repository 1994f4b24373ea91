"""From a response's text to what the model thought and what it answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from selfeval_backend.chat.forms import AnswerForm, Parsed
from selfeval_backend.chat.messages import Message, ToolSpec
from selfeval_backend.chat.special_tokens import SpecialTokens
from selfeval_backend.chat.template import Chat, ChatTemplate
from selfeval_backend.chat.tools.of_template import response_template_of
from selfeval_backend.chat.vllm_parsers import made_for
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.forks import Lock
from selfeval_backend.grammar import Grammar

__all__ = [
    "NO_REASONING",
    "ReasoningForm",
    "ReasoningParser",
    "Thought",
    "load_reasoning_parser",
    "reasoning_of",
]

OWN = "think"
"""The name of the parser of the model's own tags, or of ``<think>``; it needs no vLLM."""

NO_REASONING = "none"
"""The name that says that nothing is told apart."""

_TAGS: Mapping[str, str] = {
    "<think>": "</think>",  # DeepSeek R1, Qwen, GLM, Kimi K2, SmolLM3
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",
    "<thought>": "</thought>",  # EXAONE Deep
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|channel>thought": "<channel|>",  # Gemma 4
    "◁think▷": "◁/think▷",  # Kimi VL
}
"""What reasoning begins with, and what ends it."""

_FIELDS = ("thinking", "reasoning", "reasoning_content")
"""Of a response template, where the reasoning goes."""

_OWN_NAMES: Mapping[str, str] = {
    **dict.fromkeys(
        ("deepseek_r1", "deepseek_v3", "qwen3", "glm45", "glm47", "kimi_k2", "hunyuan_a13b"),
        "<think>",
    ),
    "mistral": "[THINK]",
    "seed_oss": "<seed:think>",
}
"""Of vLLM's parsers, those whose tags are read here too."""

_BEGUN_BY_PROMPT = ("deepseek_r1",)
"""Of these, those that take a response without a beginning for reasoning up to its end."""


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

    def plain(self, answer: str) -> str:
        """Return an answer without special tokens."""
        ...


class ThinkTags:
    """Reads ``<think>...</think>``, or other tags, in front of the answer.

    Args:
        opened: Whether the prompt ends with ``<think>``, so that a response begins as reasoning.
        begin: What reasoning begins with.
        end: What ends it.
        special: The tokenizer's special tokens.
    """

    def __init__(
        self,
        *,
        opened: bool = False,
        begin: str = "<think>",
        end: str = "</think>",
        special: SpecialTokens | None = None,
    ) -> None:
        self._opened = opened
        self._begin, self._end = begin, end
        self._special = special or SpecialTokens()
        self.keeps_special_tokens = self._special.holds_any((begin, end))

    def __str__(self) -> str:
        """Say what is read."""
        opened = ", opened by the prompt" if self._opened else ""
        return f"between {self._begin} and {self._end}{opened}"

    def split(self, text: str) -> Thought:
        """Return the parts of a whole response; without an end all of it is reasoning."""
        body = text.lstrip()
        if not body.startswith(self._begin) and not self._opened:
            return Thought(reasoning="", answer=text)
        reasoning, _, answer = body.removeprefix(self._begin).partition(self._end)
        return Thought(reasoning=self._special.left_out(reasoning).strip(), answer=answer.strip())

    def settled(self, text: str) -> Thought:
        """Return what of a growing response is certain: no tag that is not whole."""
        if self._begin.startswith(text.lstrip()):
            return Thought(reasoning="", answer="")
        if self._end in text:
            return self.split(text)
        parts = self.split(text)
        return replace(parts, reasoning=_without_beginning_of(self._end, parts.reasoning))

    def plain(self, answer: str) -> str:
        """Return an answer without special tokens."""
        return self._special.left_out(answer)


class Channels:
    """Reads messages in channels, as gpt-oss writes them: "analysis" is the reasoning.

    A call stays as it was written, for the parser of calls; all else is the answer.

    Args:
        special: The tokenizer's special tokens.
    """

    keeps_special_tokens = True

    def __init__(self, *, special: SpecialTokens | None = None) -> None:
        self._special = special or SpecialTokens()

    def __str__(self) -> str:
        """Say what is read."""
        return "in the channel analysis"

    def split(self, text: str) -> Thought:
        """Return the parts of a whole response."""
        messages = list(_MESSAGE.finditer(text))
        if not messages:
            return Thought(reasoning="", answer=text)
        thoughts: list[str] = []
        answers = [text[: messages[0].start()]]
        for found in messages:
            to = found["to"] or found["to_too"]
            if to is not None:
                answers.append(f"<|channel|>commentary to={to}<|message|>{found['body']}")
            else:
                (thoughts if found["channel"] == "analysis" else answers).append(found["body"])
        return Thought(reasoning=self._joined(thoughts), answer=_joined(answers))

    def settled(self, text: str) -> Thought:
        """Return what of a growing response is certain: no token that is not whole."""
        certain = _TOKEN_BEGUN.sub("", text)
        parts = self.split(certain)
        if not _MESSAGE.search(certain) and certain.lstrip().startswith("<|"):
            return Thought(reasoning="", answer="")
        return parts

    def plain(self, answer: str) -> str:
        """Return an answer without special tokens."""
        return self._special.left_out(answer)

    def _joined(self, parts: list[str]) -> str:
        return self._special.left_out(_joined(parts))


_MESSAGE = re.compile(
    r"(?:<\|start\|>assistant)?(?:\s*to=(?P<to>[\w.-]+)\s*)?"
    r"<\|channel\|>(?P<channel>\w+)\s*(?:to=(?P<to_too>[\w.-]+)\s*)?"
    r"(?:<\|constrain\|>)?\s*(?:json)?\s*<\|message\|>"
    r"(?P<body>.*?)(?:<\|(?:end|call|return)\|>|(?=<\|(?:start|channel)\|>)|\Z)",
    re.DOTALL,
)
_TOKEN_BEGUN = re.compile(r"<(?:\|\w*\|?)?\Z")


def _joined(parts: list[str]) -> str:
    return "\n".join(filter(None, (part.strip() for part in parts)))


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
        self._parser = made_for(
            tokenizer,
            field="reasoning_parser",
            name=name,
            find=ReasoningParserManager.get_reasoning_parser,
            registered=ReasoningParserManager.list_registered,
            ours=f'"{OWN}", "{NO_REASONING}", or ',
        )
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

    def plain(self, answer: str) -> str:
        """Return it as it is: what is of the form is the parser's own."""
        return answer


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
        parts = self._plain(self.parser.split(text))
        reasoning = parts.reasoning or None
        if text.strip() and not parts.answer.strip():
            return Parsed(
                text="", reasoning=reasoning, error="it has no answer behind its reasoning"
            )
        answer = Parsed(text=parts.answer) if self.inner is None else self.inner.parse(parts.answer)
        return replace(answer, reasoning=reasoning)

    def settled(self, text: str) -> str:
        """Return what of a growing response will stand in `Parsed.text`, at its beginning."""
        answer = self._plain(self.parser.settled(text)).answer
        return answer if self.inner is None else self.inner.settled(answer)

    def settled_reasoning(self, text: str) -> str:
        """Return what of a growing response will stand in `Parsed.reasoning`, at its beginning."""
        return self.parser.settled(text).reasoning

    def _plain(self, parts: Thought) -> Thought:
        if self.inner is not None and self.inner.keeps_special_tokens:
            return parts
        return replace(parts, answer=self.parser.plain(parts.answer))


def reasoning_of(chat: Chat) -> ThinkTags | Channels | None:
    """Find out how a model tells its reasoning from its answers; None: no sign of any.

    The signs are the tokenizer's `response_template`, tags in its chat template or among its
    tokens, and a prompt that ends with one.
    """
    if not isinstance(chat, ChatTemplate):
        return None
    special = SpecialTokens.of(chat)
    prompt = _prompt_end(chat)
    begin, end = _tags_of_template(chat) or _tags_shown(chat, prompt) or ("", "")
    if begin:
        return ThinkTags(opened=prompt.endswith(begin), begin=begin, end=end, special=special)
    shown = _template_text(chat)
    return Channels(special=special) if "<|channel|>" in shown and "analysis" in shown else None


def _prompt_end(chat: Chat) -> str:
    try:
        prompt_ids = chat.prompt_ids([Message(role="user", content="?")])
    except ConfigurationError:  # as little is known as where the prompt shows nothing
        return ""
    return chat.decode(prompt_ids, keep_special_tokens=True).rstrip()


def _template_text(chat: ChatTemplate) -> str:
    template = chat.tokenizer.chat_template
    return template if isinstance(template, str) else " ".join(map(str, (template or {}).values()))


def _tags_of_template(chat: ChatTemplate) -> tuple[str, str] | None:
    """Return the tags that a response template names, where they are no patterns."""
    template = response_template_of(chat) or {"fields": {}}
    for name in _FIELDS:
        match template["fields"].get(name):
            case {"open": str(begin), "close": str(end)} if begin.strip() and end.strip():
                return begin.strip(), end.strip()
    return None


def _tags_shown(chat: ChatTemplate, prompt: str) -> tuple[str, str] | None:
    shown, tokens = _template_text(chat), chat.tokenizer.get_added_vocab()
    for begin, end in _TAGS.items():
        named = begin in shown or end in shown
        if named or {begin, end} <= set(tokens) or prompt.endswith(begin):
            return begin, end
    return None


def load_reasoning_parser(name: str, chat: Chat) -> ReasoningParser:
    """Return a parser.

    Args:
        name: "think": the model's own tags, else ``<think>...</think>``; or one of vLLM's ("qwen3",
            "deepseek_r1", ...). Without vLLM the common ones of them are read all the same.
        chat: The model's. Whether its prompts end with ``<think>`` is tried.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the model.
        MissingDependencyError: vLLM is not installed.
    """
    if name == OWN:
        return reasoning_of(chat) or _think_tags(chat, "<think>")
    if not isinstance(chat, ChatTemplate):
        raise ConfigurationError(
            "reasoning_parser", name, f'"{OWN}" or "{NO_REASONING}" for a model without a tokenizer'
        )
    try:
        return VllmReasoningParser(name, chat.tokenizer)
    except MissingDependencyError:
        if name not in _OWN_NAMES:
            raise
        return _think_tags(chat, _OWN_NAMES[name], opened=name in _BEGUN_BY_PROMPT)


def _think_tags(chat: Chat, begin: str, *, opened: bool = False) -> ThinkTags:
    return ThinkTags(
        opened=opened or _prompt_end(chat).endswith(begin),
        begin=begin,
        end=_TAGS[begin],
        special=SpecialTokens.of(chat),
    )
