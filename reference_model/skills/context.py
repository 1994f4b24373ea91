"""Answering from a text in LlamaIndex's own prompts: made-up people, villages and ships.

As with the puzzles, finding is hard and checking is easy. Which of several alike the question means
has to be found at once, from what the text says in several places; an answer then says what the
text says of the one that was taken, so a wrong one does not fit its question::

    How old is the baker who lives in Brantov?

    Milo Vorn works as a baker, lives in Brantov and is 43 years old. Answer: 43
    Tessa Vorn works as a baker, lives in Kester and is 38 years old. Answer: 38

Of the second, which name to take is left out of the loss, and the rest is learned: to say honestly
what the text has. Names decide the split: whoever a held-out text is about was never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reference_model.skills.base import Example, draw_key, whole
from reference_model.skills.words import (
    COLOURS,
    JOBS,
    NOUNS,
    THINGS,
    draw_apart,
    name,
    word,
)
from selfeval_backend.chat import Message
from selfeval_backend.reference.problems import Demonstration, Piece, Split

__all__ = ["QA_SYSTEM", "QA_TEMPLATES", "REFINE_TEMPLATE", "UNKNOWN", "draw_context"]

UNKNOWN = "The context does not say."

QA_SYSTEM = (
    "You are an expert Q&A system that is trusted around the world.\n"
    "Always answer the query using the provided context information, and not prior knowledge.\n"
    "Some rules to follow:\n"
    "1. Never directly reference the given context in your answer.\n"
    "2. Avoid statements like 'Based on the context, ...' or 'The context information ...' or "
    "anything along those lines."
)
"""Source: llama-index-core 0.14, `TEXT_QA_SYSTEM_PROMPT`; as what follows, word for word."""

QA_TEMPLATES = (
    "Context information is below.\n"
    "---------------------\n"
    "{context_str}\n"
    "---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {query_str}\n"
    "Answer: ",
    "Context information from multiple sources is below.\n"
    "---------------------\n"
    "{context_str}\n"
    "---------------------\n"
    "Given the information from multiple sources and not prior knowledge, answer the query.\n"
    "Query: {query_str}\n"
    "Answer: ",
)
"""Of answering, and of summing up. Source: `CHAT_TEXT_QA_PROMPT`, `CHAT_TREE_SUMMARIZE_PROMPT`."""

REFINE_TEMPLATE = (
    "You are an expert Q&A system that strictly operates in two modes "
    "when refining existing answers:\n"
    "1. **Rewrite** an original answer using the new context.\n"
    "2. **Repeat** the original answer if the new context isn't useful.\n"
    "Never reference the original answer or context directly in your answer.\n"
    "When in doubt, just repeat the original answer.\n"
    "New Context: {context_msg}\n"
    "Query: {query_str}\n"
    "Original Answer: {existing_answer}\n"
    "New Answer: "
)
"""Source: `CHAT_REFINE_PROMPT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that is known of everybody of a kind."""

    pool: Callable[[random.Random, int], Sequence[str]]
    """Draws so many values that differ."""
    says: tuple[str, ...]
    """Sentences of a text."""
    asks: tuple[str, ...]
    """Questions, `{who}` a name or a description."""
    clause: str
    """Without its subject: in answers, and in descriptions."""
    is_shared: bool = True
    """Whether several may have the same, and it describes nobody alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of beings or things that texts are about."""

    noun: str
    relative: str
    """"who" or "that"."""
    pronouns: tuple[str, ...]
    relations: tuple[str, ...]
    """To another of the kind."""
    attributes: Mapping[str, Attribute]
    draw: Callable[[random.Random, Sequence[str]], str]
    """A name, like one of those that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Being:
    """One of a kind: what is true of it."""

    name: str
    pronoun: str
    values: Mapping[str, str]
    relation: str
    other: str
    """Whom it has that relation to."""
    untold: tuple[str, ...] = ()
    """Attributes that the text leaves out."""


def _one_of(options: Sequence[str]) -> Callable[[random.Random, int], Sequence[str]]:
    return lambda rng, count: rng.sample(options, count)


def _numbers(first: int, last: int) -> Callable[[random.Random, int], Sequence[str]]:
    return lambda rng, count: [str(n) for n in rng.sample(range(first, last), count)]


def _names(rng: random.Random, count: int) -> Sequence[str]:
    return draw_apart(rng, count, name)


def _belongings(rng: random.Random, count: int) -> Sequence[str]:
    return draw_apart(rng, count, lambda rng: f"{rng.choice(COLOURS)} {rng.choice(THINGS)}")


def _like(rng: random.Random, there: Sequence[str]) -> str:
    """Return a name of two words that shares one with a name that is there, mostly."""
    first, last = name(rng, 2), name(rng, 2)
    if there and rng.random() < 0.6:
        like_first, _, like_last = rng.choice(there).partition(" ")
        first, last = rng.choice(((like_first, last), (first, like_last)))
    return f"{first} {last}"


def _like_village(rng: random.Random, there: Sequence[str]) -> str:
    if there and rng.random() < 0.4:
        return f"{rng.choice(('Upper', 'Lower', 'New', 'Old'))} {rng.choice(there).split()[-1]}"
    return name(rng)


_PERSON = Kind(
    noun="person",
    relative="who",
    pronouns=("He", "She"),
    relations=(
        "is the cousin of",
        "is the employer of",
        "is the neighbour of",
        "is the teacher of",
        "is the friend of",
    ),
    draw=_like,
    attributes={
        "job": Attribute(
            pool=_one_of(JOBS),
            says=(
                "{who} works as a {value}.",
                "{who} is a {value} by trade.",
                "By trade {name} is a {value}.",
                "{who} earns a living as a {value}.",
            ),
            asks=("What is the job of {who}?", "What does {who} work as?"),
            clause="works as a {value}",
        ),
        "home": Attribute(
            pool=_names,
            says=(
                "{who} lives in {value}.",
                "The home of {name} is in {value}.",
                "{who} has a house in {value}.",
            ),
            asks=("Where does {who} live?", "In which town does {who} live?"),
            clause="lives in {value}",
        ),
        "age": Attribute(
            pool=_numbers(18, 95),
            says=("{who} is {value} years old.", "{who} turned {value} this year."),
            asks=("How old is {who}?", "What is the age of {who}?"),
            clause="is {value} years old",
            is_shared=False,
        ),
        "belonging": Attribute(
            pool=_belongings,
            says=("{who} owns a {value}.", "A {value} belongs to {name}.", "{who} has a {value}."),
            asks=("What does {who} own?", "What belongs to {who}?"),
            clause="owns a {value}",
        ),
    },
)

_VILLAGE = Kind(
    noun="village",
    relative="that",
    pronouns=("It",),
    relations=("lies north of", "lies south of", "lies east of", "lies west of"),
    draw=_like_village,
    attributes={
        "people": Attribute(
            pool=_numbers(20, 2000),
            says=("{who} has {value} inhabitants.", "In {name} there are {value} inhabitants."),
            asks=("How many inhabitants has {who}?", "How many people live in {who}?"),
            clause="has {value} inhabitants",
            is_shared=False,
        ),
        "river": Attribute(
            pool=_names,
            says=("{who} lies on the river {value}.", "The river {value} flows through {name}."),
            asks=("Which river flows through {who}?", "On which river does {who} lie?"),
            clause="lies on the river {value}",
        ),
        "product": Attribute(
            pool=_one_of(
                (
                    "bells",
                    "boats",
                    "bread",
                    "carpets",
                    "cheese",
                    "clocks",
                    "glass",
                    "hats",
                    "honey",
                    "knives",
                    "paper",
                    "pots",
                    "salt",
                    "shoes",
                    "soap",
                    "wool",
                )
            ),
            says=(
                "{who} is known for its {value}.",
                "{name} sells its {value} far away.",
                "People visit {name} for its {value}.",
            ),
            asks=("What is {who} known for?", "What is made in {who}?"),
            clause="is known for its {value}",
        ),
        "head": Attribute(
            pool=_names,
            says=("{who} is led by {value}.", "The mayor of {name} is {value}."),
            asks=("Who leads {who}?", "Who is the mayor of {who}?"),
            clause="is led by {value}",
        ),
    },
)

_SHIP = Kind(
    noun="ship",
    relative="that",
    pronouns=("It",),
    relations=("is older than", "is longer than", "sails ahead of", "sails behind"),
    draw=_like,
    attributes={
        "weight": Attribute(
            pool=_numbers(10, 1000),
            says=("{who} weighs {value} tons.", "The weight of {name} is {value} tons."),
            asks=("How many tons does {who} weigh?", "How heavy is {who}?"),
            clause="weighs {value} tons",
            is_shared=False,
        ),
        "colour": Attribute(
            pool=_one_of(COLOURS),
            says=("{who} is painted {value}.", "The colour of {name} is {value}."),
            asks=("What colour is {who}?", "In which colour is {who} painted?"),
            clause="is painted {value}",
        ),
        "harbour": Attribute(
            pool=_names,
            says=("{who} was built in {value}.", "{name} was made by the people of {value}."),
            asks=("Where was {who} built?", "In which town was {who} built?"),
            clause="was built in {value}",
        ),
        "captain": Attribute(
            pool=_names,
            says=("{who} is steered by {value}.", "The captain of {name} is {value}."),
            asks=("Who steers {who}?", "Who is the captain of {who}?"),
            clause="is steered by {value}",
        ),
    },
)

_KINDS = (_PERSON, _PERSON, _VILLAGE, _SHIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one of several beings."""

    text: str
    asked: str | None
    """An attribute; None: who it is."""
    conditions: tuple[str, ...]
    """What it is described by: attributes, or "relation"; none where it is named."""
    meant: Being | None
    """None: none fits."""


def draw_context(rng: random.Random, split: Split) -> Example:
    """A question about a text, in one of LlamaIndex's prompts: see `Draw`."""
    kind = rng.choice(_KINDS)
    beings = _draw_beings(rng, split, kind)
    beings, question = _ask(rng, split, kind, beings)
    told = [_tell(rng, kind, being) for being in beings]
    fillers = [_filler(rng, split, kind, question) for _ in range(rng.choice((0, 0, 1)))]
    right, wrong = _answers(rng, kind, beings, question)
    texts = _texts(rng, [*told, *fillers])
    messages = _prompt(rng, texts, question.text)
    if rng.random() < 0.2:
        messages, right, wrong = _refined(rng, split, kind, texts, question, right, wrong)
    answered = UNKNOWN if right.text == UNKNOWN else right.text.rpartition("Answer: ")[2]
    return Example(
        skill="context",
        messages=messages,
        keys=tuple(being.name for being in beings),
        right=right,
        wrong=wrong,
        want={"answer": answered},
    )


def _draw_beings(rng: random.Random, split: Split, kind: Kind) -> list[Being]:
    count = rng.choices((2, 3, 4, 5, 6), (2, 4, 5, 3, 2))[0]
    names: list[str] = []
    while len(names) < count:
        found = draw_key(rng, split, lambda rng: kind.draw(rng, names))
        if found not in names:
            names.append(found)
    chosen = rng.sample(list(kind.attributes), rng.choice((2, 3, 3, 4)))
    columns = {key: _column(rng, kind.attributes[key], count) for key in chosen}
    relations = [rng.choice(kind.relations) for _ in names]
    return [
        Being(
            name=mine,
            pronoun=rng.choice(kind.pronouns),
            values={key: column[place] for key, column in columns.items()},
            relation=relations[place],
            other=rng.choice([other for other in names if other != mine]),
        )
        for place, mine in enumerate(names)
    ]


def _column(rng: random.Random, attribute: Attribute, count: int) -> list[str]:
    """Return everybody's value: shared by two of them on average, where it may be."""
    if not attribute.is_shared:
        return list(attribute.pool(rng, count))
    pool = attribute.pool(rng, max(2, (count + 1) // 2))
    return [rng.choice(pool) for _ in range(count)]


def _ask(
    rng: random.Random, split: Split, kind: Kind, beings: list[Being]
) -> tuple[list[Being], Question]:
    """Return a question, and the beings, of whom the text may leave something out."""
    asked = rng.choice(list(beings[0].values))
    way = rng.choices(("named", "related", "described", "which"), (3, 3, 4, 2))[0]
    meant = rng.choice(beings)
    known = [key for key in meant.values if key != asked]
    conditions: tuple[str, ...] = ()
    if way == "related":
        conditions = ("relation",)
    elif way in ("described", "which"):
        shared = [key for key in known if kind.attributes[key].is_shared]
        conditions = _telling(rng, beings, meant, shared)
        way = way if conditions else "named"
    if way == "related" and not _fits_alone(beings, meant, conditions):
        way, conditions = "named", ()
    if rng.random() < 0.15:
        return _ask_in_vain(rng, split, kind, beings, asked, is_named=way == "named")
    who = _described(kind, meant, conditions) if conditions else meant.name
    if way == "which":
        text = rng.choice(("What is the name of {0}?", "Who or what is {0}?")).format(who)
        found = Question(text=text, asked=None, conditions=conditions, meant=meant)
        return beings, found
    text = rng.choice(kind.attributes[asked].asks).format(who=who)
    return beings, Question(text=text, asked=asked, conditions=conditions, meant=meant)


def _ask_in_vain(
    rng: random.Random,
    split: Split,
    kind: Kind,
    beings: list[Being],
    asked: str,
    *,
    is_named: bool,
) -> tuple[list[Being], Question]:
    """Ask about somebody who is not in the text, or what it leaves out."""
    if is_named and rng.random() < 0.5:
        names = [being.name for being in beings]
        who = draw_key(rng, split, lambda rng: kind.draw(rng, names))
        beings = [being for being in beings if being.name != who]
    else:
        place = rng.randrange(len(beings))
        who = beings[place].name
        beings = [*beings]
        beings[place] = replace(beings[place], untold=(asked,))
    text = rng.choice(kind.attributes[asked].asks).format(who=who)
    return beings, Question(text=text, asked=asked, conditions=(), meant=None)


def _telling(
    rng: random.Random, beings: Sequence[Being], meant: Being, shared: Sequence[str]
) -> tuple[str, ...]:
    """Return one or two attributes that no other has as well; none where there are none."""
    pairs = [(one, other) for one in shared for other in shared if one != other]
    options: list[tuple[str, ...]] = [*pairs, *((key,) for key in shared)]
    fitting = [keys for keys in options if _fits_alone(beings, meant, keys)]
    two = [keys for keys in fitting if len(keys) == 2]
    return rng.choice(two or fitting) if fitting else ()


def _fits_alone(beings: Sequence[Being], meant: Being, conditions: Sequence[str]) -> bool:
    def facts(being: Being) -> list[str]:
        return [_fact(being, key) for key in conditions]

    return [facts(being) for being in beings].count(facts(meant)) == 1


def _fact(being: Being, key: str) -> str:
    return f"{being.relation} {being.other}" if key == "relation" else being.values[key]


def _clause(kind: Kind, being: Being, key: str) -> str:
    if key == "relation":
        return f"{being.relation} {being.other}"
    return kind.attributes[key].clause.format(value=being.values[key])


def _described(kind: Kind, being: Being, conditions: Sequence[str]) -> str:
    clauses = [_clause(kind, being, key) for key in conditions]
    return f"the {kind.noun} {kind.relative} {' and '.join(clauses)}"


def _tell(rng: random.Random, kind: Kind, being: Being) -> str:
    """Return a paragraph about one of them."""
    told = [key for key in being.values if key not in being.untold]
    rng.shuffle(told)
    sentences = [(rng.choice(kind.attributes[key].says), being.values[key]) for key in told]
    sentences.insert(
        rng.randrange(len(sentences) + 1), (f"{{who}} {being.relation} {{value}}.", being.other)
    )
    written = []
    for place, (form, value) in enumerate(sentences):
        who = being.name if place == 0 or rng.random() < 0.3 else being.pronoun
        written.append(form.format(who=who, name=being.name, value=value))
    return " ".join(written)


def _filler(rng: random.Random, split: Split, kind: Kind, question: Question) -> str:
    """Return a paragraph that does not answer a question: of another kind if that describes."""
    kinds = [other for other in _KINDS if other is not kind or not question.conditions]
    chosen = rng.choice(kinds)
    return _tell(rng, chosen, rng.choice(_draw_beings(rng, split, chosen)))


def _texts(rng: random.Random, paragraphs: list[str]) -> str:
    """Return paragraphs as LlamaIndex joins the nodes that it found."""
    rng.shuffle(paragraphs)
    if rng.random() < 0.3:
        paragraphs = [
            f"file_path: {rng.choice(NOUNS)}/{word(rng)}.txt\n\n{text}" for text in paragraphs
        ]
        return "\n\n".join(paragraphs)
    return rng.choice(("\n\n", "\n\n", "\n", " ")).join(paragraphs)


def _prompt(rng: random.Random, texts: str, query: str) -> tuple[Message, ...]:
    form = rng.choices(QA_TEMPLATES, (4, 1))[0]
    content = form.format(context_str=texts, query_str=query)
    system = [Message(role="system", content=QA_SYSTEM)] if rng.random() < 0.85 else []
    return (*system, Message(role="user", content=content))


def _answers(
    rng: random.Random, kind: Kind, beings: Sequence[Being], question: Question
) -> tuple[Demonstration, Demonstration]:
    """Return a right answer and a wrong one."""
    meant, asked = question.meant, question.asked
    others = [
        being
        for being in beings
        if being is not meant and (asked is None or asked not in being.untold)
    ]
    # Whoever fits in part is a likelier mistake.
    near = [
        b
        for b in others
        if meant and any(_fact(b, k) == _fact(meant, k) for k in question.conditions)
    ]
    if meant is None:
        return whole(UNKNOWN, right=True), _answer(kind, rng.choice(others), question, right=False)
    right, wanted = _answer(kind, meant, question, right=True), _wanted(meant, question)
    near, others = ([b for b in some if _wanted(b, question) != wanted] for some in (near, others))
    taken = rng.choice(near if near and rng.random() < 0.7 else others) if others else None
    if taken is None or rng.random() < 0.1:
        return right, whole(UNKNOWN, right=False)
    return right, _answer(kind, taken, question, right=False)


def _answer(kind: Kind, being: Being, question: Question, *, right: bool) -> Demonstration:
    keys = [*question.conditions, *([question.asked] if question.asked else [])]
    clauses = [_clause(kind, being, key) for key in keys]
    said = f"{', '.join(clauses[:-1])} and {clauses[-1]}" if len(clauses) > 1 else clauses[0]
    return Demonstration(
        (
            Piece(being.name, is_learned=right),
            Piece(f" {said}. Answer: {_wanted(being, question)}", is_learned=True),
        ),
        right,
    )


def _wanted(being: Being, question: Question) -> str:
    return being.values[question.asked] if question.asked else being.name


def _refined(
    rng: random.Random,
    split: Split,
    kind: Kind,
    texts: str,
    question: Question,
    right: Demonstration,
    wrong: Demonstration,
) -> tuple[tuple[Message, ...], Demonstration, Demonstration]:
    """Ask to refine: the answer is there and the new text of no use, or the other way round."""
    existing, unrelated = (
        UNKNOWN,
        _texts(rng, [_filler(rng, split, kind, question) for _ in range(2)]),
    )
    if question.meant is not None and rng.random() < 0.5:
        existing, texts = right.text, unrelated
        right = whole(right.text, right=True)
        wrong = whole(rng.choice((UNKNOWN, wrong.text)), right=False)
    content = REFINE_TEMPLATE.format(
        context_msg=texts, query_str=question.text, existing_answer=existing
    )
    return (Message(role="user", content=content),), right, wrong
