"""Kinds of questions with one short right answer; their wordings stand in ``wordings.toml``."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from selfeval_backend.instructions.checks import Constraint
from selfeval_backend.instructions.vocabulary import Vocabulary
from selfeval_backend.instructions.wording import Demand, vary

__all__ = ["QUESTION_KINDS", "QuestionKind"]

_MOST_WORDS = 30
"""Of an answer: whoever says more does not answer, or says everything."""


QuestionKind = Callable[[random.Random, Vocabulary], Demand]


def _question(fields: Mapping[str, str], right: str, wrong: Sequence[str] = ()) -> Demand:
    """Return a question whose answer holds `right`, none of `wrong`, and not too many words."""
    constraint = Constraint(check="answer", words=(right, *wrong), number=_MOST_WORDS)
    return Demand(constraint=constraint, fields=fields)


def _shuffled(items: list[str], rng: random.Random) -> list[str]:
    return rng.sample(items, len(items))


def _capital(rng: random.Random, vocabulary: Vocabulary) -> Demand:
    country = rng.choice(list(vocabulary.capitals))
    return _question({"country": country}, vocabulary.capitals[country])


def _copied(rng: random.Random, vocabulary: Vocabulary) -> Demand:
    sentence = vary(rng.choice(vocabulary.told), rng, _person(rng, vocabulary))
    constraint = Constraint(check="copied", words=(sentence,))
    return Demand(constraint=constraint, fields={"sentence": sentence})


_TOLD: Mapping[str, str] = MappingProxyType(
    {
        "job": "{name} (works as|is|earns a living as) a {job}.",
        "city": "{name} (lives in|comes from|has a flat in|moved to) {city}.",
        "pet": "{name} (has|keeps|owns|looks after) a {pet}.",
        "dish": "{name}'s favorite (dish|meal|food) is {dish}.",
        "colour": "{name} (drives|owns|rides in) a {colour} car.",
        "age": "{name} is {age} years old.",
    }
)

_ASKED: Mapping[str, str] = MappingProxyType(
    {
        "job": "What is {name}'s (job|profession|work)?",
        "city": "(In which|Which) city (is {name} at home|does {name} belong to)?",
        "pet": "(Which|What) (animal|pet) does {name} have?",
        "dish": "What does {name} like (best to eat|to eat most)?",
        "colour": "(What|Which) color is {name}'s car?",
        "age": "How old is {name}?",
    }
)


def _person(rng: random.Random, vocabulary: Vocabulary) -> dict[str, str]:
    return {
        "name": rng.choice(vocabulary.names),
        "job": rng.choice(vocabulary.jobs),
        "city": rng.choice(vocabulary.cities),
        "pet": rng.choice(vocabulary.pets),
        "dish": rng.choice(vocabulary.dishes),
        "colour": rng.choice(vocabulary.colours),
        "thing": rng.choice(vocabulary.things),
        "age": str(rng.randint(18, 80)),
    }


def _from_text(rng: random.Random, vocabulary: Vocabulary) -> Demand:
    names = rng.sample(vocabulary.names, rng.choice((1, 2)))
    people = [{**_person(rng, vocabulary), "name": name} for name in names]
    asked, other = rng.sample(list(_TOLD), 2)
    told = _shuffled([asked, other], rng)
    person = rng.choice(people)
    fields = {
        "text": " ".join(vary(_TOLD[fact], rng, each) for each in people for fact in told),
        "question": vary(_ASKED[asked], rng, person),
    }
    wrong = {each[asked] for each in people} - {person[asked]}
    return _question(fields, person[asked], sorted(wrong))


QUESTION_KINDS: Mapping[str, QuestionKind] = MappingProxyType(
    {
        "capital": _capital,
        "copy": _copied,
        "from_text": _from_text,
    }
)
