"""What instructions are about and what they are worded with: lists, put apart once.

Every list of ``vocabulary.toml`` and ``wordings.toml`` is divided by hash: a quarter of it is held
out, and stands in no prompt of training. What is not in a list of its own is nobody's to hold out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from selfeval_backend.files import read_text
from selfeval_backend.hashing import digest_of

__all__ = ["Topic", "Vocabulary", "Wordings", "one_side", "vocabulary", "wordings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Something to write about."""

    name: str
    words: tuple[str, ...]
    """Such as a text about it is likely to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The words of one side."""

    topics: tuple[Topic, ...]
    aspects: tuple[str, ...]
    """What may follow a topic's name."""
    words: tuple[str, ...]
    """Plain ones, of no topic in particular."""
    names: tuple[str, ...]
    """Of people, by their first names."""
    capitals: Mapping[str, str]
    """By country."""
    jobs: tuple[str, ...]
    cities: tuple[str, ...]
    colours: tuple[str, ...]
    pets: tuple[str, ...]
    dishes: tuple[str, ...]
    things: tuple[str, ...]
    """To be bought."""
    told: tuple[str, ...]
    """Sentences of such words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wordings:
    """The patterns of one side; `vary` says what a pattern is."""

    layouts: tuple[str, ...]
    """How a request and its constraints make one prompt."""
    requests: Mapping[str, tuple[str, ...]]
    """For a text, by its form."""
    constraints: Mapping[str, tuple[str, ...]]
    """By kind."""
    questions: Mapping[str, tuple[str, ...]]
    """By kind; and `briefly`, which asks for a short answer to any of them."""


def one_side(items: Sequence[str], *, held_out: bool) -> tuple[str, ...]:
    """Return the items of one side, in their order: a quarter is held out, at least one.

    Which ones is decided by the hashes of their texts, whatever their order.
    """
    ranked = sorted(items, key=digest_of)
    apart = set(ranked[: -(-len(items) // 4)])
    return tuple(item for item in items if (item in apart) == held_out)


@cache
def vocabulary(*, held_out: bool) -> Vocabulary:
    """Return the words of one side: those of training, or those that are held out."""
    body = _read("vocabulary.toml")
    topics, capitals = (_side(body.pop(name), held_out) for name in ("topics", "capitals"))
    lists = {
        name: one_side(items.split() if isinstance(items, str) else items, held_out=held_out)
        for name, items in body.items()
    }
    return Vocabulary(
        topics=tuple(
            Topic(name=name, words=tuple(words.split())) for name, words in topics.items()
        ),
        capitals=capitals,
        **lists,
    )


@cache
def wordings(*, held_out: bool) -> Wordings:
    """Return the patterns of one side: those of training, or those that are held out."""
    body = _read("wordings.toml")
    return Wordings(
        layouts=one_side(body["layouts"], held_out=held_out),
        requests=_each(body["requests"], held_out),
        constraints=_each(body["constraints"], held_out),
        questions=_each(body["questions"], held_out),
    )


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(read_text(Path(__file__).with_name(name)))


def _side(items: Mapping[str, str], held_out: bool) -> Mapping[str, str]:
    chosen = one_side(list(items), held_out=held_out)
    return MappingProxyType({name: items[name] for name in chosen})


def _each(lists: Mapping[str, list[str]], held_out: bool) -> Mapping[str, tuple[str, ...]]:
    sides = {name: one_side(items, held_out=held_out) for name, items in lists.items()}
    return MappingProxyType(sides)
