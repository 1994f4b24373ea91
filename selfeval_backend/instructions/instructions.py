"""Instructions: a prompt, and what a response to it has to keep to.

Deterministic: the same instructions for the same part and seed, whatever the platform.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.hashing import digest_of
from selfeval_backend.instructions.checks import Constraint
from selfeval_backend.instructions.constraints import (
    CONSTRAINT_KINDS,
    ConstraintKind,
    Form,
    Setting,
)
from selfeval_backend.instructions.questions import QUESTION_KINDS
from selfeval_backend.instructions.vocabulary import (
    Topic,
    Vocabulary,
    Wordings,
    vocabulary,
    wordings,
)
from selfeval_backend.instructions.wording import vary

__all__ = [
    "HELD_OUT_KINDS",
    "KINDS",
    "TEST_PARTS",
    "Constraint",
    "Instruction",
    "Part",
    "TestPart",
    "generate_instructions",
]

TestPart = Literal["seen", "unseen_wording", "unseen_kind"]
Part = Literal["train", "calibration"] | TestPart
"""`seen` has the kinds, topics and wordings of training, though never the same prompt;
`unseen_wording` topics, words and wordings that stand in no prompt of training; `unseen_kind` kinds
that do not."""

TEST_PARTS: tuple[TestPart, ...] = get_args(TestPart)

HELD_OUT_KINDS: tuple[str, ...] = (
    "repeated",
    "without_letter",
    "numbered",
    "quotation",
    "no_digit",
)
"""Kinds that training never sees: of words, of letters and of form."""

KINDS: tuple[str, ...] = (*CONSTRAINT_KINDS, *QUESTION_KINDS)
"""Every kind, those held out among them."""

_LONG_SHARE = 0.7
"""Of texts of kinds that may be long."""
_TWO_SHARE = 0.15
"""Of prompts with a second constraint."""
_ASPECT_SHARE = 0.25
"""Of topics that are seen from one side."""
_SECOND_KINDS = ("keywords", "highlights", "placeholders")
_BRIEF_SHARE = 0.3
"""Of questions with the wish for a short answer."""
_MOST_TRIES = 1000
"""In a row for a new prompt: then there is none left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One prompt with its constraints."""

    kind: str
    """Of the first constraint: one of `KINDS`."""
    prompt: str
    constraints: tuple[Constraint, ...]
    """One or two."""
    form: Form = "short"
    subject: str = ""
    """What it is about, without its wording."""

    @property
    def key(self) -> str:
        """The instruction without its wording: what makes two of them the same one.

        Of capitals there are too few: there, another wording is another one.
        """
        if self.kind == "capital":
            return self.prompt
        asked = [[c.check, c.words, c.number] for c in self.constraints]
        return json.dumps([self.kind, self.subject, self.form, asked])

    def share_kept(self, response: str) -> float:
        """Return the share of the constraints that a response keeps to."""
        return sum(c.is_kept(response) for c in self.constraints) / len(self.constraints)

    def reward(self, response: str) -> float:
        """Return 1.0 for a response that keeps to every constraint, else 0.0."""
        return float(self.share_kept(response) == 1.0)


def generate_instructions(
    part: Part, *, seed: int, kinds: Sequence[str] = ()
) -> Iterator[Instruction]:
    """Yield instructions of one part, the kinds in turn, no prompt twice.

    A kind's instructions do not depend on what other kinds there are. It ends where a kind has no
    new one.

    Args:
        part: Which one.
        seed: At least 0.
        kinds: Of `KINDS`; none: those of the part.

    Raises:
        ConfigurationError: A kind is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigurationError("kinds", kind, f"one of {', '.join(KINDS)}")
    chosen = kinds or [k for k in KINDS if (k in HELD_OUT_KINDS) == (part == "unseen_kind")]
    each = [_of_kind(kind, part, random.Random(f"{part}/{kind}/{seed}")) for kind in chosen]
    return chain.from_iterable(zip(*each, strict=False))


def _of_kind(kind: str, part: Part, rng: random.Random) -> Iterator[Instruction]:
    seen: set[str] = set()
    tries = 0
    while tries < _MOST_TRIES:
        tries += 1
        found = _draw(kind, rng, held_out=part == "unseen_wording")
        if found.key not in seen and part in _parts_of(found.key):
            seen.add(found.key)
            tries = 0
            yield found


def _parts_of(key: str) -> tuple[Part, ...]:
    """Return the parts that a key may be in: by its hash where training has its like."""
    bucket = int(digest_of(key)[:2], 16)
    own: Part = "seen" if bucket < 26 else "calibration" if bucket < 52 else "train"
    return (own, "unseen_wording", "unseen_kind")


def _draw(kind: str, rng: random.Random, *, held_out: bool) -> Instruction:
    words, said = vocabulary(held_out=held_out), wordings(held_out=held_out)
    if kind in QUESTION_KINDS:
        return _question(kind, rng, words, said)
    return _text(kind, rng, words, said)


def _question(kind: str, rng: random.Random, words: Vocabulary, said: Wordings) -> Instruction:
    demand = QUESTION_KINDS[kind](rng, words)
    brief = ""
    if kind != "copy" and rng.random() < _BRIEF_SHARE:
        brief = vary(rng.choice(said.questions["briefly"]), rng, {})
    asked = vary(rng.choice(said.questions[kind]), rng, demand.fields)
    return Instruction(
        kind=kind,
        prompt=f"{asked} {brief}".strip(),
        constraints=(demand.constraint,),
        subject="; ".join(demand.fields.values()),
    )


def _text(kind: str, rng: random.Random, words: Vocabulary, said: Wordings) -> Instruction:
    form = rng.choices(*_forms(CONSTRAINT_KINDS[kind]))[0]
    topic = rng.choice(words.topics)
    subject = _subject(topic, rng, words)
    setting = Setting(topic=topic, form=form, vocabulary=words)
    kinds = (kind, *_second(kind, rng))
    demands = [CONSTRAINT_KINDS[name].draw(rng, setting) for name in kinds]
    told = [
        vary(rng.choice(said.constraints[name]), rng, demand.fields)
        for name, demand in zip(kinds, demands, strict=True)
    ]
    fields = {
        "request": vary(rng.choice(said.requests[form]), rng, {"topic": subject}),
        "constraints": " ".join(told),
        "listed": "\n".join(told),
    }
    return Instruction(
        kind=kind,
        prompt=vary(rng.choice(said.layouts), rng, fields),
        constraints=tuple(demand.constraint for demand in demands),
        form=form,
        subject=subject,
    )


def _forms(kind: ConstraintKind) -> tuple[tuple[Form, ...], list[float]]:
    """Return the forms of a kind, and the weight of each."""
    return kind.forms, [_LONG_SHARE if form == "long" else 1 - _LONG_SHARE for form in kind.forms]


def _second(kind: str, rng: random.Random) -> tuple[str, ...]:
    """Return the kind of a second constraint that the first leaves room for, or nothing."""
    if kind in HELD_OUT_KINDS or kind == "json" or rng.random() >= _TWO_SHARE:
        return ()
    others = [name for name in _SECOND_KINDS if name != kind]
    if kind in ("forbidden", "without_letter"):
        others.remove("keywords")
    return (rng.choice(others),)


def _subject(topic: Topic, rng: random.Random, words: Vocabulary) -> str:
    if rng.random() >= _ASPECT_SHARE:
        return topic.name
    return f"{topic.name} {rng.choice(words.aspects)}"
