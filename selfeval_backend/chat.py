"""Messages and tools to token ids, and whole responses to text: the one door to tokenizers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from selfeval_backend.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    SelfEvaluationError,
)
from selfeval_backend.files import is_whole_text, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Chat",
    "ChatTemplate",
    "Message",
    "Role",
    "ToolCall",
    "ToolSpec",
    "check_messages",
    "in_plain_turns",
    "with_tools",
]

Role = Literal["system", "user", "assistant", "tool"]

_PROMPT_MARK = "\N{SECTION SIGN}prompt\N{SECTION SIGN}"
_RESPONSE_MARK = "\N{SECTION SIGN}response\N{SECTION SIGN}"
_QUESTION_MARK = "\N{SECTION SIGN}question\N{SECTION SIGN}"
_TOOL_MARK = "does_the_template_show_tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that a model may call."""

    name: str
    """What the model calls it by."""
    description: str = ""
    """What it does, for the model to read."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON schema of its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool, as a model wrote it."""

    id: str
    """What its result refers to."""
    name: str
    """Of the tool."""
    arguments: Mapping[str, Any]
    """By name, in JSON types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """What is said; may be empty beside calls of tools."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn."""
    tool_call_id: str | None = None
    """Of a tool's turn: the call that it answers."""
    name: str | None = None
    """Of a tool's turn: the tool's."""


class Chat(Protocol):
    """What turns conversations into token ids and back: `ChatTemplate`, or a test's double."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an assistant turn."""
        ...

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[int, ...]:
        """Render a conversation, and tools that may be called, with the assistant's turn opened.

        Raises:
            ConfigurationError: The conversation cannot be answered.
        """
        ...

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        ...

    def decode(self, token_ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Return the text of a whole response; special tokens are left out if not asked for."""
        ...

    def follow_up_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one."""
        ...

    def first_token_id(self, text: str) -> int:
        """Return the first token of an assistant turn that begins with `text`."""
        ...


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse a conversation that cannot be answered.

    Raises:
        ConfigurationError: No message, an unknown role, a content that is no text, tool calls of
            anybody but the assistant, or an empty last message.
    """
    if not messages:
        raise ConfigurationError("messages", list(messages), "at least one message")
    for place, message in enumerate(messages):
        if message.role not in get_args(Role):
            raise ConfigurationError(
                f"messages[{place}].role", message.role, f"one of {', '.join(get_args(Role))}"
            )
        if not isinstance(message.content, str):
            raise ConfigurationError(
                f"messages[{place}].content",
                message.content,
                "text",
                remedy="Images, audio and other blocks are not supported.",
            )
        if not is_whole_text(message.content):
            raise ConfigurationError(
                f"messages[{place}].content",
                message.content,
                "text without halves of surrogate pairs, which are no characters",
                remedy="It was read in another encoding than it was written in.",
            )
        if message.tool_calls and message.role != "assistant":
            raise ConfigurationError(
                f"messages[{place}].tool_calls", message.tool_calls, "none but of the assistant"
            )
    if not messages[-1].content.strip() and messages[-1].role != "tool":
        raise ConfigurationError(
            f"messages[{len(messages) - 1}].content", messages[-1].content, "a prompt with text"
        )


_MAX_TOKEN_ID = 2**31 - 1


class ChatTemplate:
    """A checkpoint's tokenizer and chat template.

    Args:
        tokenizer: The checkpoint's, with a chat template.
        name: How the model is called in errors.
        end_token_ids: Further tokens that end a response (a generation config may name several).

    Raises:
        CheckpointError: The tokenizer has no chat template or no end token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        end_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._name = name
        if tokenizer.chat_template is None:
            raise CheckpointError(
                f"{name}: its tokenizer has no chat template. Use an instruction-tuned checkpoint, "
                "or add a chat_template to its tokenizer."
            )
        eos = tokenizer.eos_token_id
        self.end_token_ids = end_token_ids | (frozenset() if eos is None else frozenset({int(eos)}))
        if not self.end_token_ids:
            raise CheckpointError(
                f"{name}: neither tokenizer nor generation config has an eos token"
            )

    @classmethod
    def load(cls, name_or_path: str | Path) -> ChatTemplate:
        """Load the tokenizer of a checkpoint.

        Raises:
            CheckpointError: There is none, or it cannot be read.
            MissingDependencyError: transformers is not installed.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError("transformers", extra="transformers") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name_or_path))
        except Exception as error:
            # Broken files make the library raise whatever comes.
            raise CheckpointError(
                f"{name_or_path}: its tokenizer cannot be loaded: {one_line(error)}"
            ) from error
        ends = _generation_ends(name_or_path)
        return cls(tokenizer, name=str(name_or_path), end_token_ids=ends)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's, as it was given."""
        return self._tokenizer

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows tools, calls and results in its own words.

        If not they are shown as plain JSON, in turns of the user and the assistant.
        """
        try:
            rendered = self._render(
                [{"role": "user", "content": _PROMPT_MARK}],
                [_tool_dict(ToolSpec(name=_TOOL_MARK))],
            )
        except ConfigurationError:
            return False
        return _TOOL_MARK in rendered

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[int, ...]:
        """Render a conversation, and tools that may be called, with the assistant's turn opened.

        Raises:
            ConfigurationError: The conversation cannot be answered, or the template refuses it.
        """
        check_messages(messages)
        if with_tools(messages, tools) and not self.shows_tools:
            return self._encode(
                self._render([_turn_dict(m) for m in in_plain_turns(messages, tools)])
            )
        return self._encode(
            self._render([_turn_dict(m) for m in messages], [_tool_dict(tool) for tool in tools])
        )

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        return self._encode(text)

    def decode(self, token_ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Return the text of a whole response; special tokens are left out if not asked for."""
        text = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=not keep_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        assert isinstance(text, str), "one sequence in, one text out"
        return text

    def follow_up_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one.

        Raises:
            CheckpointError: The template does not keep a response as it is.
        """
        rendered = self._render(
            [
                {"role": "user", "content": _PROMPT_MARK},
                {"role": "assistant", "content": _RESPONSE_MARK},
                {"role": "user", "content": _QUESTION_MARK},
            ]
        )
        _, found, after = rendered.rpartition(_RESPONSE_MARK)
        if not found or _QUESTION_MARK not in after:
            raise CheckpointError(
                f"{self._name}: its chat template does not render a conversation of three turns "
                "word for word, so the self-evaluation question cannot be placed"
            )
        return self._encode(after.replace(_QUESTION_MARK, text))

    def first_token_id(self, text: str) -> int:
        """Return the first token of an assistant turn that begins with `text`.

        Raises:
            SelfEvaluationError: It is not one token of its own: an unknown token.
        """
        ids = self._encode(text)
        unknown = self._tokenizer.unk_token_id
        if not ids or ids[0] == unknown:
            raise SelfEvaluationError(
                f"{self._name}: the label {text!r} has no token in its tokenizer. "
                "Choose other labels in selfeval.json."
            )
        return ids[0]

    def _render(
        self, conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                conversation,
                tools=tools or None,  # type: ignore[arg-type]  # it names no parameter of dict
                add_generation_prompt=True,
                tokenize=False,
            )
        except TemplateError as error:
            raise ConfigurationError(
                "messages",
                [turn["role"] for turn in conversation],
                "a conversation that the model's chat template takes",
                remedy=f"The template says: {error}",
            ) from error
        assert isinstance(text, str), "one conversation in, one text out"
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        encoding: Mapping[str, Any] = self._tokenizer(text, add_special_tokens=False)
        return tuple(encoding["input_ids"])


def _turn_dict(message: Message) -> dict[str, Any]:
    """Return a turn as chat templates take it: as OpenAI's API, but with arguments as objects."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        turn |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn


def _tool_dict(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description}
    return {"type": "function", "function": {**function, "parameters": dict(tool.parameters)}}


def with_tools(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bool:
    """Tell whether there is anything of tools in a conversation."""
    return bool(tools) or any(m.role == "tool" or m.tool_calls for m in messages)


def in_plain_turns(
    messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
) -> tuple[Message, ...]:
    """Return a conversation with tools as one of text alone, for templates that know no tools.

    Tools stand in front of the first message, calls are JSON in the assistant's turn, and results
    are the user's; turns of the user that then follow each other become one.
    """
    turns: list[Message] = []
    for message in messages:
        plain = _plain_turn(message)
        if turns and turns[-1].role == plain.role == "user":
            plain = Message(role="user", content=f"{turns.pop().content}\n{plain.content}")
        turns.append(plain)
    if tools:
        first = turns[0]
        shown = "\n".join(_json(_tool_dict(tool)["function"]) for tool in tools)
        content = f"Tools:\n{shown}\n{_HOW_TO_CALL}\n\n{first.content}"
        turns[0] = Message(role=first.role, content=content)
    return tuple(turns)


_HOW_TO_CALL = 'To call a tool answer with JSON only: {"name": ..., "arguments": {...}}'
"""Short, as it is read with every prompt. `selfeval_backend.structured` reads what comes of it."""


def _json(value: Mapping[str, Any]) -> str:
    """Write JSON in letters of any script; escaped where one is no letter but half of one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_whole_text(text) else json.dumps(value)


def _plain_turn(message: Message) -> Message:
    if message.role == "tool":
        of = f" of {message.name}" if message.name else ""
        return Message(role="user", content=f"Result{of}: {message.content}")
    calls = [
        _json({"name": call.name, "arguments": dict(call.arguments)}) for call in message.tool_calls
    ]
    parts = [message.content, *calls] if message.content.strip() else calls
    return Message(role=message.role, content="\n".join(parts) if calls else message.content)


def _generation_ends(name_or_path: str | Path) -> frozenset[int]:
    """Return the end tokens that a generation config names; none where there is no such file.

    Raises:
        CheckpointError: It is there, and cannot be used.
    """
    from transformers import GenerationConfig

    file = Path(name_or_path) / "generation_config.json"
    try:
        eos: Any = GenerationConfig.from_pretrained(str(name_or_path)).eos_token_id
    except Exception as error:
        if isinstance(error, OSError) and not os.path.lexists(file):
            return frozenset()
        raise CheckpointError(
            f"{file} cannot be read: {one_line(error)} Mend it, or remove it."
        ) from error
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(end) is int and 0 <= end <= _MAX_TOKEN_ID for end in ends):
        raise CheckpointError(
            f"{file}: eos_token_id is {str(eos)[:80]}, expected token ids. Mend it, or remove it."
        )
    return frozenset(ends)
