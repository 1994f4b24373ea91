"""A tokenizer and its chat template: conversations to token ids and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selfeval_backend.chat.conforming import conform, turns_of
from selfeval_backend.chat.habits import Habits, Turn
from selfeval_backend.chat.messages import Message, ToolSpec, check_messages, check_turns
from selfeval_backend.chat.opening import Opening, find_opening
from selfeval_backend.chat.pairing import paired
from selfeval_backend.chat.plain import in_plain_turns, tool_dict, with_tools
from selfeval_backend.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFilesError,
    SelfEvaluationError,
)
from selfeval_backend.files import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Chat", "ChatTemplate"]

_PROMPT_MARK = "\N{SECTION SIGN}prompt\N{SECTION SIGN}"
_RESPONSE_MARK = "\N{SECTION SIGN}response\N{SECTION SIGN}"
_QUESTION_MARK = "\N{SECTION SIGN}question\N{SECTION SIGN}"
_MAX_TOKEN_ID = 2**31 - 1
_ANSWER_MARK = "\N{SECTION SIGN}answer\N{SECTION SIGN}"


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

    def num_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return how many tokens a conversation takes in a prompt, wherever it ends.

        Raises:
            ConfigurationError: A turn cannot be read.
        """
        ...

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        ...

    def decode(self, token_ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Return the text of a whole response; special tokens are left out if not asked for."""
        ...

    def follow_up_ids(self, text: str, *, closes_thought: bool = True) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one.

        Args:
            text: The question.
            closes_thought: Whether the next token is to be one of an answer; False: whatever the
                template's way to open a turn makes of it.
        """
        ...

    def first_token_id(self, text: str) -> int:
        """Return the first token of an assistant turn that begins with `text`."""
        ...


class ChatTemplate:
    """A model's tokenizer and chat template.

    Args:
        tokenizer: The model's, with a chat template.
        name: How the model is called in errors.
        end_token_ids: Further tokens that end a response (a generation config may name several).

    Raises:
        ModelFilesError: The tokenizer has no chat template or no end token.
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
            raise ModelFilesError(
                f"{name}: its tokenizer has no chat template. Use an instruction-tuned model, "
                "or add a chat_template to its tokenizer."
            )
        eos = tokenizer.eos_token_id
        self.end_token_ids = end_token_ids | (frozenset() if eos is None else frozenset({int(eos)}))
        if not self.end_token_ids:
            raise ModelFilesError(
                f"{name}: neither tokenizer nor generation config has an eos token"
            )

    @classmethod
    def load(cls, name_or_path: str | Path) -> ChatTemplate:
        """Load the tokenizer of a model.

        Raises:
            ModelFilesError: There is none, or it cannot be read.
            MissingDependencyError: transformers is not installed.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError("transformers", extra="transformers") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name_or_path))
        except Exception as error:  # broken files and remote code raise what they like
            raise ModelFilesError(
                f"{name_or_path}: its tokenizer cannot be loaded: {one_line(error)}"
            ) from error
        ends = _generation_ends(name_or_path)
        return cls(tokenizer, name=str(name_or_path), end_token_ids=ends)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's, as it was given."""
        return self._tokenizer

    @cached_property
    def habits(self) -> Habits:
        """What the template takes."""
        return Habits(self._render)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows tools, calls and results in its own words.

        If not they are shown as plain JSON, in turns of the user and the assistant.
        """
        return self.habits.tools and self.habits.calls(with_tools=True) is not None

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[int, ...]:
        """Render a conversation, and tools that may be called, with the assistant's turn opened.

        What the template refuses or leaves out is said in turns that it takes: see `Habits`.

        Raises:
            ConfigurationError: The conversation cannot be answered, or the template refuses it.
        """
        return self._prompt_ids(check_messages(messages), tools)

    def num_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return how many tokens a conversation takes in a prompt, wherever it ends.

        The opened turn of the assistant is among them; nothing at all takes none.

        Raises:
            ConfigurationError: A turn cannot be read, or the template refuses the conversation.
        """
        check_turns(messages)
        return len(self._prompt_ids(messages, tools)) if messages else 0

    def _prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> tuple[int, ...]:
        habits, calls = self.habits, None
        if with_tools(messages, tools):
            native = self.shows_tools if tools else True
            calls = habits.calls(with_tools=bool(tools)) if native else None
            messages = paired(messages, nine_letters=calls is not None and not calls.any_id)
            if calls is None:
                messages, tools = in_plain_turns(messages, tools), ()
        turns = turns_of(conform(messages, habits, calls), habits, calls)
        return self._encode(self._render(turns, [tool_dict(tool) for tool in tools]))

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

    @cached_property
    def opening(self) -> Opening:
        """How a turn is opened whose first token is one of an answer.

        Raises:
            ModelFilesError: The template opens a thought that nobody knows how to close.
        """
        answer = self.habits.in_parts({"role": "assistant", "content": _ANSWER_MARK})
        try:
            rendered = self._render([*self._asked(), answer], opened=False)
        except ConfigurationError:
            rendered = ""
        before, found, _ = rendered.rpartition(_ANSWER_MARK)
        return find_opening(
            lambda variables: self._after_response(variables).rpartition(_QUESTION_MARK)[2],
            before_answer=before.rpartition(_QUESTION_MARK)[2] if found else None,
            source=str(self._tokenizer.chat_template),
            name=self._name,
        )

    def follow_up_ids(self, text: str, *, closes_thought: bool = True) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one.

        Args:
            text: The question.
            closes_thought: Whether the next token is to be one of an answer: with thinking turned
                off where the template can do it, else behind a thought that is closed. False:
                whatever the template's way to open a turn makes of it.

        Raises:
            ModelFilesError: The template does not keep a response as it is, fails, or opens a
                thought that nobody knows how to close.
        """
        try:
            opening = self.opening if closes_thought else Opening(kind="plain")
            after = self._after_response(opening.variables)
        except ConfigurationError as error:
            raise ModelFilesError(
                f"{self._name}: its chat template takes no conversation of three turns, so the "
                f"self-evaluation question cannot be placed. {error.remedy}"
            ) from error
        return self._encode(after.replace(_QUESTION_MARK, text) + opening.suffix)

    def _asked(self) -> list[Turn]:
        """Return a prompt, a response and a question, of marks."""
        marks = (_PROMPT_MARK, _RESPONSE_MARK, _QUESTION_MARK)
        roles = ("user", "assistant", "user")
        turns = ({"role": r, "content": mark} for r, mark in zip(roles, marks, strict=True))
        return [self.habits.in_parts(turn) for turn in turns]

    def _after_response(self, variables: Mapping[str, Any]) -> str:
        """Return what stands behind a response where a question follows, up to the next one."""
        rendered = self._render(self._asked(), variables=variables)
        _, found, after = rendered.rpartition(_RESPONSE_MARK)
        if not found or _QUESTION_MARK not in after:
            raise ModelFilesError(
                f"{self._name}: its chat template does not render a conversation of three turns "
                "word for word, so the self-evaluation question cannot be placed"
            )
        return after

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
        self,
        turns: Sequence[Turn],
        tools: Sequence[Turn] = (),
        *,
        opened: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write turns as the template does; the one place where what it raises is translated."""
        try:
            text = self._tokenizer.apply_chat_template(
                list(turns),
                tools=list(tools) or None,
                add_generation_prompt=opened,
                tokenize=False,
                **(variables or {}),
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise ConfigurationError(
                "messages",
                [turn["role"] for turn in turns],
                "a conversation that the model's chat template takes",
                remedy=f"The template says: {_said(error)}",
            ) from error
        assert isinstance(text, str), "one conversation in, one text out"
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            encoding: Mapping[str, Any] = self._tokenizer(text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            half = next((letter for letter in text if "\ud800" <= letter <= "\udfff"), text)
            raise ConfigurationError(
                "text",
                half,
                "whole letters",
                remedy='The text was cut within one. Use text.encode("utf-8", "replace").',
            ) from error
        return tuple(encoding["input_ids"])


def _said(error: Exception) -> str:
    """Return what a template means by an error: its own words, or of what kind it is."""
    from jinja2 import TemplateError

    words = one_line(error)
    return words if type(error) is TemplateError else f"{type(error).__name__}: {words}"


def _generation_ends(name_or_path: str | Path) -> frozenset[int]:
    """Return the end tokens that a generation config names; none where there is no such file.

    Raises:
        ModelFilesError: It is there, and cannot be used.
    """
    from transformers import GenerationConfig

    file = Path(name_or_path) / "generation_config.json"
    try:
        eos: Any = GenerationConfig.from_pretrained(str(name_or_path)).eos_token_id
    except Exception as error:
        if isinstance(error, OSError) and not os.path.lexists(file):
            return frozenset()
        raise ModelFilesError(
            f"{file} cannot be read: {one_line(error)} Correct or remove it."
        ) from error
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(end) is int and 0 <= end <= _MAX_TOKEN_ID for end in ends):
        raise ModelFilesError(
            f"{file}: eos_token_id is {str(eos)[:80]}, expected token ids. Correct or remove it."
        )
    return frozenset(ends)
