"""Kinds of questions with one short right answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from selfeval_backend.instructions.vocabulary import Vocabulary
from selfeval_backend.instructions.wording import say, vary

__all__ = ["QUESTION_KINDS", "Question", "QuestionKind"]

_FEW_WORDS = 15
"""Most words of an answer that is asked to be short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and how its answer is checked."""

    text: str
    words: tuple[str, ...]
    """The right answer, then wrong ones that must not stand beside it."""
    subject: str
    """What is asked, without its wording where there are many more questions than wordings."""
    check: str = "answer"
    number: int = _FEW_WORDS


QuestionKind = Callable[[random.Random, Vocabulary, bool], Question]
"""Of (generator, words, whether wordings are those that are held out)."""

_BRIEFLY = """
(Answer|Reply) (in|with) (one word|a single word|one or two words)(| only).
(Give|Write) only the answer(|, nothing else|, no explanation).
(Be brief|Be short|Keep it short)(|, please).
(Just|Only) the answer, please.
Answer (briefly|shortly|in a few words).
(One word|A word or two) will do.
(No|Without) explanation(|, please).
A short answer(| only| will do), please.
"""


def _briefly(rng: random.Random, *, held_out: bool) -> str:
    return say(_BRIEFLY, rng, {}, held_out=held_out)


def _shuffled(rng: random.Random, items: Sequence[str]) -> list[str]:
    return rng.sample(items, len(items))


_CAPITAL = """
What is the capital(| city) of {country}?
(Name|Tell me|Give me) the capital(| city) of {country}.
Which city is the capital of {country}?
(Do you know|Can you tell me) (the capital of {country}|what the capital of {country} is)?
(The capital of {country} is|{country} has its capital in) which city?
{country}: what is its capital?
In which (city|place) is the government of {country}?
Where is the seat of government of {country}, its capital?
"""


def _capital(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    country = rng.choice(sorted(vocabulary.capitals))
    asked = say(_CAPITAL, rng, {"country": country}, held_out=held_out)
    text = f"{asked} {_briefly(rng, held_out=held_out)}"
    return Question(text=text, words=(vocabulary.capitals[country],), subject=text)


_OPPOSITE = """
What is the opposite of "{word}"?
(Give|Tell|Name) me the opposite of "{word}".
(Name|Write|Find) (a word|the word) that means the opposite of "{word}".
Which word is the opposite of "{word}"?
(I am looking for|I need) the antonym of "{word}".
"{word}" is the opposite of (which word|what)?
What would be the contrary of "{word}"?
Not "{word}" at all, but quite the (opposite|contrary): which word is that?
"""


def _opposite(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    pair = list(rng.choice(sorted(vocabulary.opposites.items())))
    rng.shuffle(pair)
    asked = say(_OPPOSITE, rng, {"word": pair[0]}, held_out=held_out)
    text = f"{asked} {_briefly(rng, held_out=held_out)}"
    return Question(text=text, words=(pair[1],), subject=text, number=6)


_MEMBER = """
Which (of these|one of these|word) is a {category}: {options}?
(Find|Pick|Choose|Name) the {category} (among|in) these words: {options}.
(One|Only one) of these words is a {category}. Which one? {options}
{options}: which (of them|of these|one) is a {category}?
Here are some words: {options}. (Which one|Which of them) (names|is) a {category}?
(Read|Look at) this list and (name|find) the {category}: {options}.
Where is the {category} (in|hidden in) this list: {options}?
Spot the {category}: {options}.
"""


def _member(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    categories = rng.sample(sorted(vocabulary.categories), 4)
    options = [rng.choice(vocabulary.categories[name]) for name in categories]
    fields = {"category": categories[0], "options": ", ".join(_shuffled(rng, options))}
    asked = say(_MEMBER, rng, fields, held_out=held_out)
    text = f"{asked} {_briefly(rng, held_out=held_out)}"
    return Question(text=text, words=tuple(options), subject=fields["category"])


_SENTIMENT = """
Is this review positive or negative? "{review}"
(Read|Look at) this review and say whether it is positive or negative: "{review}"
"{review}" Is (this|that) a positive or a negative review?
A customer wrote: "{review}" (Positive or negative|Is that positive or negative)?
(Classify|Label|Judge) this review as positive or negative: "{review}"
(How does|What does) this customer feel, positive or negative? "{review}"
"{review}" (Was the customer's opinion|Is the opinion) negative or positive?
Review: "{review}" Sentiment (negative or positive|positive or negative)?
"""


def _sentiment(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    sides = {"positive": vocabulary.praise, "negative": vocabulary.blame}
    right, wrong = _shuffled(rng, sorted(sides))
    most = rng.sample(sides[right], 2)
    sentences = _shuffled(rng, [*most, *rng.sample(sides[wrong], rng.choice((0, 1)))])
    review = " ".join(sentences).format(thing=rng.choice(vocabulary.things))
    asked = say(_SENTIMENT, rng, {"review": review}, held_out=held_out)
    text = f"{asked} {_briefly(rng, held_out=held_out)}"
    return Question(text=text, words=(right, wrong), subject=review)


_COPY = """
(Repeat|Copy|Write down) this sentence (exactly|word for word|without any change): {sentence}
(Write|Say) exactly this and nothing else: {sentence}
(Your answer|Your response) (must|should) be exactly this sentence: {sentence}
{sentence} (Repeat that|Say that again), word for word.
Please copy the (following|next) (sentence|words): {sentence}
(Echo|Give back) the following (text|sentence): {sentence}
The sentence is: {sentence} (Write|Copy) it (once more|again), unchanged.
Answer with this sentence and no other: {sentence}
"""

_SENTENCES = """
{name} bought a {colour} {thing} in {city} last week.
The {job} from {city} has a {colour} {thing} and a {pet}.
{name} and the {job} ate {dish} in {city}.
In {city}, {name} met a {job} with a {colour} {thing}.
My {pet} likes {dish}, but {name} does not.
Every {job} in {city} wants a {colour} {thing} like mine.
"""


def _copied(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    sentence = say(_SENTENCES, rng, _facts(rng, vocabulary))
    text = say(_COPY, rng, {"sentence": sentence}, held_out=held_out)
    return Question(text=text, words=(sentence,), subject=sentence, check="copied")


_TOLD = MappingProxyType(
    {
        "job": "{name} (works as|is|earns a living as) a {job}.",
        "city": "{name} (lives in|comes from|has a flat in|moved to) {city}.",
        "pet": "{name} (has|keeps|owns|looks after) a {pet}.",
        "dish": "{name}'s favorite (dish|meal|food) is {dish}.",
        "colour": "{name} (drives|owns|rides in) a {colour} car.",
        "age": "{name} is {age} years old.",
    }
)

_ASKED = MappingProxyType(
    {
        "job": "What is {name}'s (job|profession|work)?",
        "city": "(In which|Which) city (is {name} at home|does {name} belong to)?",
        "pet": "(Which|What) (animal|pet) does {name} have?",
        "dish": "What does {name} like (best to eat|to eat most)?",
        "colour": "(What|Which) color is {name}'s car?",
        "age": "How old is {name}?",
    }
)

_READING = """
{text}\\n\\n{question}
Read this text: {text} {question}
Text: {text}\\nQuestion: {question}
{question} Here is the text: {text}
(Use|Look at) the following (text|lines) to answer. {text}\\n{question}
(Answer from|According to) this text: "{text}" {question}
This is what I know: {text} Now tell me: {question}
Question: {question}\\nSource: {text}
"""


def _facts(rng: random.Random, vocabulary: Vocabulary) -> dict[str, str]:
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


def _from_text(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    people = [_facts(rng, vocabulary) for _ in range(rng.choice((2, 3)))]
    while len({person["name"] for person in people}) < len(people):
        people = [_facts(rng, vocabulary) for _ in people]
    asked = rng.choice(sorted(_ASKED))
    others = rng.sample(sorted(set(_TOLD) - {asked}), 1)
    told = _shuffled(rng, [asked, *others])
    text = " ".join(vary(_TOLD[fact], rng, person) for person in people for fact in told)
    person = rng.choice(people)
    question = vary(_ASKED[asked], rng, person) + " " + _briefly(rng, held_out=held_out)
    asked_of = say(_READING, rng, {"text": text, "question": question}, held_out=held_out)
    wrong = {other[asked] for other in people} - {person[asked]}
    return Question(
        text=asked_of,
        words=(person[asked], *sorted(wrong)),
        subject=f"{person['name']}, {asked}: {text}",
        number=20,
    )


_SUM = """
What is {a} plus {b}?
(Add|Sum up) {a} and {b}.
(Calculate|Work out|Compute) {a} + {b}.
(How much|What) is {a} + {b}?
{a} + {b} = ?
I have {a} (apples|coins|books) and get {b} more. How many (do I have|are there) now?
What do {a} and {b} (make|come to) together?
The sum of {a} and {b} is what?
"""


def _sum(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    a, b = rng.randint(3, 60), rng.randint(3, 40)
    asked = say(_SUM, rng, {"a": str(a), "b": str(b)}, held_out=held_out)
    return Question(text=f"{asked} {_briefly(rng, held_out=held_out)}", words=(str(a + b),), subject=f"{a} + {b}")


_LARGER = """
Which number is larger, {a} or {b}?
(Which is more|What is more), {a} or {b}?
(Name|Give|Write) the larger (of the numbers|number of) {a} and {b}.
{a} or {b}: which (number |)is (greater|bigger)?
(Compare|Look at) {a} and {b}. Which is the larger one?
Of {a} and {b}, which is the (greater|larger|bigger)?
Is {a} or {b} the (larger|bigger|greater) number?
Who has more, Tim with {a} or Mia with {b} points? (Give|Write) the number.
"""


def _larger(rng: random.Random, vocabulary: Vocabulary, held_out: bool) -> Question:
    a, b = rng.sample(range(11, 1000), 2)
    asked = say(_LARGER, rng, {"a": str(a), "b": str(b)}, held_out=held_out)
    text = f"{asked} {_briefly(rng, held_out=held_out)}"
    return Question(text=text, words=(str(max(a, b)), str(min(a, b))), subject="")


QUESTION_KINDS: Mapping[str, QuestionKind] = MappingProxyType(
    {
        "capital": _capital,
        "copy": _copied,
        "from_text": _from_text,
        "larger": _larger,
        "member": _member,
        "opposite": _opposite,
        "sentiment": _sentiment,
        "sum": _sum,
    }
)
