"""JSON as an answer: of a form that the prompt asks for, or of one that only a grammar knows.

A schema's keys are forced by the grammar and stand nowhere in the prompt. There the braces and keys
are left out of the loss: what is learned is to fill a value in few words, and to end it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from reference_model.skills.base import Example, draw_key, whole
from reference_model.skills.tools import damaged, opening
from reference_model.skills.words import (
    COLOURS,
    JOBS,
    NOUNS,
    THINGS,
    VERBS,
    name,
    number,
    text_value,
    word,
)
from selfeval_backend.chat import Message
from selfeval_backend.reference.problems import Demonstration, Piece, Split

__all__ = ["draw_json"]

_FACTS: Mapping[str, tuple[str, ...]] = {
    "age": ("{name} is {value} years old.", "{name}, {value} years of age, is here."),
    "job": ("{name} works as a {value}.", "{name} is a {value}."),
    "city": ("{name} lives in {value}.", "The home of {name} is {value}."),
    "colour": ("{name} likes {value}.", "The coat of {name} is {value}."),
    "owns": ("{name} has a {value}.", "{name} owns a {value}."),
    "amount": ("{name} paid {value}.", "{name} asks for {value}."),
}
"""What a text may say of somebody, by the key that it is asked for with."""


def draw_json(rng: random.Random, split: Split) -> Example:
    """JSON, asked for by its keys or forced by a grammar: see `Draw`."""
    return rng.choice((_draw_facts, _draw_asked, _draw_forced, _draw_forced))(rng, split)


def _draw_facts(rng: random.Random, split: Split) -> Example:
    """What a text says, as the keys that the prompt names."""
    named = draw_key(rng, split, lambda rng: f"{name(rng)} {name(rng)}")
    keys = rng.sample(list(_FACTS), rng.choice((1, 2, 3)))
    found: dict[str, Any] = {key: _fact(rng, key) for key in keys}
    said = [rng.choice(_FACTS[key]).format(name=named, value=found[key]) for key in keys]
    rng.shuffle(said)
    if rng.random() < 0.6:
        found = {"name": named, **found}
    right = json.dumps(found)
    spoiled = {**found, (key := rng.choice(list(found))): damaged(rng, found[key])}
    return Example(
        skill="json",
        messages=(*opening(rng), _user(f"{' '.join(said)}\n{_asked(rng, list(found))}")),
        keys=(named,),
        right=whole(right, right=True),
        wrong=whole(
            rng.choice((json.dumps(spoiled), json.dumps(spoiled), right[:-2])), right=False
        ),
        want={"json": found},
    )


def _fact(rng: random.Random, key: str) -> Any:
    match key:
        case "age":
            return rng.randrange(5, 100)
        case "amount":
            return abs(number(rng))
        case "job":
            return rng.choice(JOBS)
        case "colour":
            return rng.choice(COLOURS)
        case "owns":
            return rng.choice(THINGS)
        case _:
            return name(rng)


def _asked(rng: random.Random, keys: Sequence[str]) -> str:
    quote = rng.choice(("'", '"', ""))
    shown = [f"{quote}{key}{quote}" for key in keys]
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
    return rng.choice(
        (
            f"Answer as JSON with the keys {listed}.",
            f"Give JSON with {listed}, and no other text.",
            f"As JSON: {listed}.",
            f"Write an object with {listed} as JSON only.",
        )
    )


def _draw_asked(rng: random.Random, split: Split) -> Example:
    """A text of the model's own, as the keys that the prompt names."""
    topic, keys = draw_key(rng, split, word), rng.sample(NOUNS, rng.choice((1, 2, 3)))
    found = {key: text_value(rng, topic) for key in keys}
    right = json.dumps(found)
    return Example(
        skill="json",
        messages=(*opening(rng), _user(f"{_subject(rng, topic)} {_asked(rng, keys)}")),
        keys=(topic,),
        right=whole(right, right=True),
        wrong=whole(_badly_filled(rng, keys, topic), right=False),
        want={"keys": keys},
    )


def _draw_forced(rng: random.Random, split: Split) -> Example:
    """A text of the model's own under keys that nobody told it."""
    topic = draw_key(rng, split, word) if rng.random() < 0.5 else rng.choice(NOUNS)
    keys = [
        rng.choice((rng.choice(NOUNS), word(rng), f"{rng.choice(NOUNS)}_{rng.choice(NOUNS)}"))
        for _ in range(rng.choice((1, 2, 2, 3)))
    ]
    keys = list(dict.fromkeys(keys))
    pieces = []
    for place, key in enumerate(keys):
        before, after = "{" if place == 0 else " ", "," if place < len(keys) - 1 else "}"
        pieces.append(Piece(f'{before}"{key}":', is_learned=False))
        pieces.append(Piece(f" {_value(rng, topic)}{after}", is_learned=True))
    asked = draw_key(rng, split, lambda rng: f"{_subject(rng, topic)} {_manner(rng)}".strip())
    return Example(
        skill="json",
        messages=(*opening(rng), _user(asked)),
        keys=(asked,),
        right=Demonstration(tuple(pieces), True),
        wrong=whole(_badly_filled(rng, keys, topic), right=False),
        want={"keys": keys},
    )


def _value(rng: random.Random, topic: str) -> str:
    """Return a value as JSON: a short text mostly."""
    other = (number(rng), None, True, False, [text_value(rng, topic)], [number(rng), number(rng)])
    chosen = text_value(rng, topic) if rng.random() < 0.8 else rng.choice(other)
    return json.dumps(chosen)


def _badly_filled(rng: random.Random, keys: Sequence[str], topic: str) -> str:
    """Return JSON with strings without end, with a key that was not asked for, or no JSON."""
    texts = [text_value(rng, topic) for _ in range(6)]
    long = json.dumps(dict.fromkeys(keys, " ".join(texts)))
    other = json.dumps({f"{keys[0]}_{word(rng)}": texts[0]})
    return rng.choice((long, long[:-2], other, json.dumps(dict.fromkeys(keys, ""))))


def _subject(rng: random.Random, topic: str) -> str:
    kind = rng.choice(("note", "line", "riddle", "rhyme", "report", "song", "plan", "story"))
    return rng.choice(
        (
            f"Write a {kind} about a {topic}.",
            f"Give me a {kind} with a {topic}.",
            f"I want a {kind}: {topic}.",
            f"Describe a {topic}.",
            f"Think of a {topic}, please.",
            f"What about a {topic}?",
        )
    )


def _manner(rng: random.Random) -> str:
    return rng.choice(
        ("", "", "", "Keep it short.", f"It should {rng.choice(VERBS)} the {rng.choice(NOUNS)}.")
    )


def _user(content: str) -> Message:
    return Message(role="user", content=content)
