"""Kinds of constraints on a text; the many ways to ask for each stand in ``wordings.toml``."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from selfeval_backend.instructions.checks import Constraint
from selfeval_backend.instructions.vocabulary import Topic, Vocabulary
from selfeval_backend.instructions.wording import Demand, number_word, times

__all__ = ["CONSTRAINT_KINDS", "ConstraintKind", "Form", "Setting"]

Form = Literal["short", "long", "free"]
"""What length of text is asked for; free: the request does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a constraint is drawn for."""

    topic: Topic
    form: Form
    vocabulary: Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintKind:
    """A kind of constraint."""

    draw: Callable[[random.Random, Setting], Demand]
    forms: tuple[Form, ...] = ("short", "long")
    """Of the texts that it is asked of."""


_EXAMPLES = ("name", "address", "date", "place", "price", "time", "title", "topic")


def _quoted(words: tuple[str, ...]) -> str:
    return " and ".join(f'"{word}"' for word in words)


def _keywords(rng: random.Random, setting: Setting) -> Demand:
    pool = setting.vocabulary.words if rng.random() < 0.4 else setting.topic.words
    count = rng.choice((1, 2, 2) if setting.form == "long" else (1, 1, 1, 2))
    words = tuple(rng.sample(pool, min(count, len(pool))))
    fields = {"words": _quoted(words), "word": "words" if len(words) > 1 else "word"}
    return Demand(constraint=Constraint(check="keywords", words=words), fields=fields)


def _forbidden(rng: random.Random, setting: Setting) -> Demand:
    word = rng.choice([w for w in setting.topic.words if w not in setting.topic.name])
    constraint = Constraint(check="forbidden", words=(word,))
    return Demand(constraint=constraint, fields={"word": word})


def _repeated(rng: random.Random, setting: Setting) -> Demand:
    pool = setting.topic.words if rng.random() < 0.7 else setting.vocabulary.words
    number = rng.choice((2, 3)) if setting.form == "long" else 2
    word = rng.choice(pool)
    fields = {"word": word, "times": times(number)}
    return Demand(
        constraint=Constraint(check="repeated", words=(word,), number=number), fields=fields
    )


def _letter(rng: random.Random, setting: Setting) -> Demand:
    letter = rng.choice("jqxzkv")
    number = rng.choice((2, 3, 4) if setting.form == "long" else (1, 2))
    fields = {"letter": letter, "times": times(number)}
    return Demand(
        constraint=Constraint(check="letter", words=(letter,), number=number), fields=fields
    )


def _without_letter(rng: random.Random, setting: Setting) -> Demand:
    letter = rng.choice("jqxz" if setting.form == "long" else "jqxzkvbwy")
    return Demand(
        constraint=Constraint(check="without_letter", words=(letter,)), fields={"letter": letter}
    )


def _counted(
    check: str, numbers: tuple[int, ...], long: tuple[int, ...] = ()
) -> Callable[[random.Random, Setting], Demand]:
    def draw(rng: random.Random, setting: Setting) -> Demand:
        number = rng.choice(long if setting.form == "long" and long else numbers)
        fields = {
            "number": number_word(number),
            "times": times(number),
            "digits": str(number),
            "more": str(number + 1),
            "s": "s" * (number > 1),
            "example": rng.choice(_EXAMPLES),
        }
        return Demand(constraint=Constraint(check=check, number=number), fields=fields)

    return draw


_TITLES = ("A New Day", "The Long Way", "Poem of Joy", "My Story", "What I Learned", "Good News")


def _plain(check: str) -> Callable[[random.Random, Setting], Demand]:
    def draw(rng: random.Random, setting: Setting) -> Demand:
        return Demand(constraint=Constraint(check=check), fields={"example": rng.choice(_TITLES)})

    return draw


def _greeting(rng: random.Random, setting: Setting) -> Demand:
    greeting = f"Dear {rng.choice(setting.vocabulary.names)}"
    return Demand(
        constraint=Constraint(check="begins", words=(greeting,)), fields={"greeting": greeting}
    )


def _json(rng: random.Random, setting: Setting) -> Demand:
    keys = tuple(rng.choice((("title", "text"), ("topic", "summary"), ("name", "description"))))
    return Demand(
        constraint=Constraint(check="json", words=keys),
        fields={"first": keys[0], "second": keys[1]},
    )


CONSTRAINT_KINDS: Mapping[str, ConstraintKind] = MappingProxyType(
    {
        "keywords": ConstraintKind(draw=_keywords),
        "forbidden": ConstraintKind(draw=_forbidden),
        "repeated": ConstraintKind(draw=_repeated),
        "letter": ConstraintKind(draw=_letter),
        "without_letter": ConstraintKind(draw=_without_letter, forms=("short",)),
        "postscript": ConstraintKind(draw=_plain("postscript"), forms=("short",)),
        "bullets": ConstraintKind(draw=_counted("bullets", (2, 3, 4)), forms=("free",)),
        "numbered": ConstraintKind(draw=_counted("numbered", (3, 4, 5)), forms=("free",)),
        "title": ConstraintKind(draw=_plain("title")),
        "no_comma": ConstraintKind(draw=_plain("no_comma"), forms=("short", "free")),
        "highlights": ConstraintKind(draw=_counted("highlights", (1, 2))),
        "at_most_words": ConstraintKind(
            draw=_counted("at_most_words", (20, 30, 40, 50, 60)), forms=("short", "free")
        ),
        "at_least_words": ConstraintKind(
            draw=_counted("at_least_words", (40, 50, 60, 80), (100, 120, 140, 160)),
            forms=("free", "long"),
        ),
        "sentences": ConstraintKind(draw=_counted("sentences", (1, 2, 3)), forms=("free",)),
        "placeholders": ConstraintKind(draw=_counted("placeholders", (1, 2))),
        "paragraphs": ConstraintKind(draw=_counted("paragraphs", (2, 3)), forms=("free", "long")),
        "greeting": ConstraintKind(draw=_greeting),
        "headings": ConstraintKind(draw=_counted("headings", (1, 2)), forms=("free", "long")),
        "quotation": ConstraintKind(draw=_plain("quotation")),
        "no_digit": ConstraintKind(draw=_plain("no_digit"), forms=("long",)),
        "json": ConstraintKind(draw=_json, forms=("short", "free")),
    }
)
