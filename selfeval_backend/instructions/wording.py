"""Many ways to say one thing: patterns with alternatives, a quarter of them held out."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from selfeval_backend.instructions.vocabulary import one_side

__all__ = ["number_word", "say", "vary"]

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def say(
    patterns: str, rng: random.Random, fields: Mapping[str, str], *, held_out: bool = False
) -> str:
    """Return one of the texts that patterns stand for.

    Args:
        patterns: One a line, at least two; see `vary`.
        rng: Chooses.
        fields: What stands for each name.
        held_out: Whether the pattern is one that training never saw.
    """
    sides = one_side(patterns.strip().splitlines(), held_out=held_out)
    return vary(rng.choice(sides), rng, fields)


def vary(pattern: str, rng: random.Random, fields: Mapping[str, str]) -> str:
    """Return one of the texts that a pattern stands for.

    Args:
        pattern: ``(a|b|)`` is one of its alternatives, which may be nested; ``{name}`` a field; a
            backslash and n a new line.
        rng: Chooses.
        fields: What stands for each name.
    """
    text = pattern
    while match := _ALTERNATIVES.search(text):
        chosen = rng.choice(match.group(1).split("|"))
        text = text[: match.start()] + chosen + text[match.end() :]
    return text.replace("\\n", "\n").format(**fields)


def number_word(number: int) -> str:
    """Return a small number as a word, a larger one in digits."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
