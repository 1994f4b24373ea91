"""Notes to repeat, whole or in part: short prompts of which nearly every token is copied.

Copying is what all other skills need, and in a prompt of two hundred tokens it is a matter of five.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence

from reference_model.skills.base import Example, draw_key, whole
from reference_model.skills.tools import damaged
from reference_model.skills.words import NOUNS, draw_apart, name, number, string, word
from selfeval_backend.chat import Message
from selfeval_backend.reference.problems import Split

__all__ = ["draw_notes"]


def draw_notes(rng: random.Random, split: Split) -> Example:
    """Notes under keys, to be given in another order, or words to be said again: see `Draw`."""
    draw = rng.choice((_draw_repeated, _draw_looked_up, _draw_looked_up))
    return draw(rng, split)


def _draw_repeated(rng: random.Random, split: Split) -> Example:
    parts = [_value(rng) for _ in range(rng.randint(1, 7))]
    joint, first = rng.choice((" ", ", ", "; ")), draw_key(rng, split, word)
    text = joint.join([first, *parts])
    asked = rng.choice(("Repeat: {}", "Say {}", "Write this again: {}", "{}\nThe same again."))
    return _example(asked.format(text), text, damaged(rng, text), key=first)


def _draw_looked_up(rng: random.Random, split: Split) -> Example:
    first = draw_key(rng, split, word)
    others = draw_apart(rng, rng.randint(1, 6), _key)
    notes = {key: _value(rng) for key in rng.sample([first, *others], len(others) + 1)}
    wanted = rng.sample(list(notes), rng.randint(1, len(notes)))
    write, request = rng.choice(_FORMS)
    slip = {wanted[0]: damaged(rng, notes[wanted[0]])}
    return _example(
        f"{rng.choice(('Notes', 'What is known', 'List'))}: {_listed(rng, notes)}\n"
        f"{request} {', '.join(wanted)}",
        write({key: notes[key] for key in wanted}),
        write({key: notes[key] for key in wanted} | slip),
        key=first,
    )


def _example(asked: str, right: str, wrong: str, *, key: str) -> Example:
    return Example(
        skill="notes",
        messages=(Message(role="user", content=asked),),
        keys=(key,),
        right=whole(right, right=True),
        wrong=whole(wrong, right=False),
        want={"text": right},
    )


def _key(rng: random.Random) -> str:
    return rng.choice((rng.choice(NOUNS), word(rng), name(rng)))


def _value(rng: random.Random) -> str:
    return str(number(rng)) if rng.random() < 0.2 else string(rng)


def _listed(rng: random.Random, notes: Mapping[str, str]) -> str:
    items: Sequence[tuple[str, str]] = list(notes.items())
    match rng.randrange(4):
        case 0:
            return ", ".join(f"{key} {value}" for key, value in items)
        case 1:
            return "; ".join(f"{key}: {value}" for key, value in items)
        case 2:
            return " ".join(f"The {key} is {value}." for key, value in items)
        case _:
            return _as_json(notes)


def _as_json(notes: Mapping[str, str]) -> str:
    return json.dumps(notes, ensure_ascii=False)


def _as_values(notes: Mapping[str, str]) -> str:
    return ", ".join(notes.values())


def _as_pairs(notes: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in notes.items())


_FORMS: tuple[tuple[Callable[[Mapping[str, str]], str], str], ...] = (
    (_as_json, "As JSON:"),
    (_as_values, "Only the values of:"),
    (_as_pairs, "Give"),
)
"""How notes are written, and how that is asked for."""
