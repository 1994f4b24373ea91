"""Many ways to ask for one thing: patterns with alternatives."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from selfeval_backend.instructions.checks import Constraint

__all__ = ["Demand", "number_word", "times", "vary"]

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked for, not yet in words."""

    constraint: Constraint
    fields: Mapping[str, str] = field(default_factory=dict)
    """What stands for the names in its wording."""


def vary(pattern: str, rng: random.Random, fields: Mapping[str, str]) -> str:
    """Return one of the texts that a pattern stands for.

    Args:
        pattern: ``(a|b|)`` is one of its alternatives, which may be nested; ``{name}`` a field.
        rng: Chooses.
        fields: What stands for each name.
    """
    text = pattern
    while match := _ALTERNATIVES.search(text):
        chosen = rng.choice(match.group(1).split("|"))
        text = text[: match.start()] + chosen + text[match.end() :]
    return text.format(**fields)


def number_word(number: int) -> str:
    """Return a small number as a word, a larger one in digits."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def times(number: int) -> str:
    """Return how often as words, for at least once."""
    return {1: "once", 2: "twice"}.get(number, f"{number_word(number)} times")
