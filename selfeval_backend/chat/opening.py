"""Where an answer stands: behind a thought that is closed, or where there is none.

A template that opens a thought for the assistant, or leaves it to the model to open one, has the
first token of its turn be one of thinking. A question that one token answers has to be asked
further on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from selfeval_backend.errors import ConfigurationError, ModelFilesError

__all__ = ["Opening", "find_opening"]

_THINKING = r"(?:think|thought|reason)"

_CLOSERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(opener, re.IGNORECASE), closer)
    for opener, closer in (
        (rf"<([\w:-]*{_THINKING}[\w:-]*)>", r"\n\n</\1>\n\n"),
        (rf"\[(\w*{_THINKING}\w*)\]", r"[/\1]"),
        (rf"◁(\w*{_THINKING}\w*)▷", r"◁/\1▷"),
        (rf"<\|START_(\w*{_THINKING}\w*)\|>", r"<|END_\1|>"),
        (rf"<\|begin_of_(\w*{_THINKING}\w*)\|>", r"\n\n<|end_of_\1|>\n\n"),
        (
            r"<\|channel\|>analysis<\|message\|>",
            r"<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        (rf"<\|channel>(?:{_THINKING})\n?", r"<channel|>"),
    )
)
"""What opens a thought, and what closes an empty one and leads to the answer, by family."""

_UNKNOWN = re.compile(
    rf"[<\[◁](?!\|?(?:/|end))[^<>\[\]\s]*(?:{_THINKING}|analysis)[^<>\[\]\s]*[>\]▷]\s*\Z",
    re.IGNORECASE,
)
"""What looks like a thought's beginning, at the very end."""

_VARIABLE = re.compile(rf"\b[a-z_]*{_THINKING}[a-z_]*\b")
"""A name by which a template may be told whether to think."""


class TurnEnd(Protocol):
    """What writes the end of a conversation."""

    def __call__(self, variables: Mapping[str, Any]) -> str:
        """Return what stands behind the user's last words, with the assistant's turn opened.

        Raises:
            ConfigurationError: The template does not take these variables.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How an assistant's turn is opened, so that what comes next is an answer."""

    kind: Literal["plain", "variable", "closed", "answer"]
    """"plain": as the template does it; "variable": by one that turns thinking off; "closed": an
    opened thought is closed; "answer": with what the template puts before an answer."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """For the template."""
    suffix: str = ""
    """Behind what the template writes."""

    @property
    def shown(self) -> str:
        """What is done, in words; empty if nothing is."""
        if self.kind == "variable":
            turned = ", ".join(f"{name}={value}" for name, value in self.variables.items())
            return f"the question is asked with thinking turned off ({turned})"
        if self.kind == "closed":
            return "it opens a thought, which is closed before the question is answered"
        if self.kind == "answer":
            return f"the question is answered after {self.suffix.strip()!r}, where answers stand"
        return ""


def find_opening(end: TurnEnd, *, before_answer: str | None, source: str, name: str) -> Opening:
    """Return how a template opens a turn in which the first token is one of the answer.

    Args:
        end: Writes the end of a conversation.
        before_answer: What the template writes between the user's last words and an answer; None:
            that is not to be found out.
        source: The template's own text, in which names of variables stand.
        name: How the model is called in errors.

    Raises:
        ModelFilesError: It opens a thought that nobody knows how to close.
    """
    plain = end({})
    for variable in dict.fromkeys(_VARIABLE.findall(source)):
        if _turns_off(end, variable, plain):
            return Opening(kind="variable", variables={variable: False})
    if (closing := _closing(plain)) is not None:
        return Opening(kind="closed", suffix=closing)
    if unknown := _UNKNOWN.search(plain):
        raise ModelFilesError(
            f"{name}: its chat template opens a thought with {unknown.group().strip()!r}, and how "
            "to close it is not known, so the self-evaluation would be read within a thought. Use "
            "a template that does not open one, or train the model's self-evaluation."
        )
    added = (before_answer or "").removeprefix(plain)
    if before_answer is not None and before_answer.startswith(plain) and added.strip():
        return Opening(kind="answer", suffix=added)
    return Opening(kind="plain")


def _turns_off(end: TurnEnd, variable: str, plain: str) -> bool:
    """Tell whether a variable makes the assistant begin with its answer, and nothing else does."""
    try:
        off = end({variable: False})
    except ConfigurationError:
        return False
    return off != plain and _closing(off) is None and not _UNKNOWN.search(off)


def _closing(text: str) -> str | None:
    """Return what closes the thought that a text ends in; None: it ends in none."""
    for opener, closer in _CLOSERS:
        found = list(opener.finditer(text))
        if not found:
            continue
        closing = found[-1].expand(closer)
        behind = text[found[-1].end() :]
        if closing.strip() not in behind and not behind.strip():
            num_breaks = len(behind) - len(behind.rstrip("\n"))
            return closing[min(num_breaks, 2) :] if closing.startswith("\n\n") else closing
    return None
