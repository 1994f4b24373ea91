"""Messages to token ids, and whole responses to text: the one door to tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from selfeval_backend.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    SelfEvaluationError,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Chat", "ChatTemplate", "Message", "Role", "check_messages"]

Role = Literal["system", "user", "assistant"]

_PROMPT_MARK = "\N{SECTION SIGN}prompt\N{SECTION SIGN}"
_RESPONSE_MARK = "\N{SECTION SIGN}response\N{SECTION SIGN}"
_QUESTION_MARK = "\N{SECTION SIGN}question\N{SECTION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


class Chat(Protocol):
    """What turns conversations into token ids and back: `ChatTemplate`, or a test's double."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an assistant turn."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Render a conversation, with the assistant's turn opened.

        Raises:
            ConfigurationError: The conversation cannot be answered.
        """
        ...

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a whole response; special tokens are left out."""
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
        ConfigurationError: No message, an unknown role, a content that is no text, or an empty
            last message.
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
    if not messages[-1].content.strip():
        raise ConfigurationError(
            f"messages[{len(messages) - 1}].content", messages[-1].content, "a prompt with text"
        )


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
            from transformers import AutoTokenizer, GenerationConfig
        except ImportError as error:
            raise MissingDependencyError("transformers", extra="transformers") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name_or_path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{name_or_path}: its tokenizer cannot be loaded: {_first_line(error)}"
            ) from error
        try:
            eos: int | list[int] | None = GenerationConfig.from_pretrained(
                str(name_or_path)
            ).eos_token_id
        except OSError:
            eos = None
        ends = frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)
        return cls(tokenizer, name=str(name_or_path), end_token_ids=ends)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Render a conversation, with the assistant's turn opened.

        Raises:
            ConfigurationError: The conversation cannot be answered, or the template refuses it.
        """
        check_messages(messages)
        text = self._render([{"role": m.role, "content": m.content} for m in messages])
        return self._encode(text)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        return self._encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a whole response; special tokens are left out."""
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
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

    def _render(self, conversation: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
