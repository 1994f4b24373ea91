"""What an example of a skill is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfeval_backend.chat import Message, ToolSpec, in_plain_turns, with_tools
from selfeval_backend.reference.problems import Demonstration, Piece, Split, split_of

__all__ = [
    "Draw",
    "Example",
    "Skill",
    "call_text",
    "draw_key",
    "whole",
]

Skill = Literal["call", "talk", "result", "json", "calculator", "context", "notes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation that a skill answers, a right answer to it, and a wrong one."""

    skill: Skill
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    """Those that may be called."""
    keys: tuple[str, ...]
    """What its split is told by: all of one split."""
    right: Demonstration
    wrong: Demonstration
    """To the same conversation; what of it nobody should learn to write is marked."""
    want: Mapping[str, Any]
    """What a response is scored against; of which kind, its one or first key says."""

    @property
    def plain_messages(self) -> tuple[Message, ...]:
        """The conversation as this model reads it: tools, calls and results in plain turns."""
        if with_tools(self.messages, self.tools):
            return in_plain_turns(self.messages, self.tools)
        return self.messages

    @property
    def needs_a_grammar(self) -> bool:
        """Whether its right response holds what the prompt does not tell."""
        return not all(piece.is_learned for piece in self.right.pieces)

    @property
    def answer(self) -> str:
        """What a response is scored against, as text."""
        return json.dumps(self.want, ensure_ascii=False)


Draw = Callable[[random.Random, Split], Example]
"""Draws an example of one split."""


def draw_key(rng: random.Random, split: Split, draw: Callable[[random.Random], str]) -> str:
    """Return a drawn text whose hash is of a split."""
    while True:
        found = draw(rng)
        if split_of(found) == split:
            return found


def whole(text: str, *, right: bool) -> Demonstration:
    """Return a response that is learned if it is right, and not at all if it is wrong."""
    return Demonstration((Piece(text, is_learned=right),), right)


def call_text(name: str, arguments: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> str:
    """Write a call as the prompt asks for it, in letters of any script."""
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
