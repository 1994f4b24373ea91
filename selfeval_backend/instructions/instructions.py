"""Instructions: a prompt, and what a response to it has to keep to.

Deterministic: the same instructions for the same part and seed, whatever the platform.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.hashing import digest_of
from selfeval_backend.instructions.checks import CHECKS
from selfeval_backend.instructions.constraints import CONSTRAINT_KINDS, ConstraintKind, Setting
from selfeval_backend.instructions.questions import QUESTION_KINDS
from selfeval_backend.instructions.vocabulary import Topic, Vocabulary, vocabulary
from selfeval_backend.instructions.wording import say

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

HELD_OUT_KINDS: tuple[str, ...] = ("signed", "numbered", "exclamations", "repeated", "opposite")
"""Kinds that training never sees: of the form, of the words and of knowledge."""

KINDS: tuple[str, ...] = (*CONSTRAINT_KINDS, *QUESTION_KINDS)
"""Every kind, those held out among them."""

_LONG_SHARE = 0.6
"""Of texts of kinds that may be long."""
_TWO_SHARE = 0.2
"""Of prompts with a second constraint."""
_ASPECT_SHARE = 0.4
"""Of topics that are seen from one side."""
_SECOND_KINDS = ("keywords", "highlights", "placeholders", "quotation")
_MOST_TRIES = 1000
"""In a row for a new prompt: then there is none left."""

_SHORT_REQUESTS = """
(Write|Give me|Compose) (one|a single|a) sentence about {topic}.
(Write|Give me|Compose) (two|a few|a couple of) sentences about {topic}.
(Write|Compose|Draft) a (short|brief|small) (paragraph|note|text|message) about {topic}.
(Describe|Explain) {topic} (briefly|in a few words|in short).
Tell me (something|a little|one thing) about {topic}.
What (comes to your mind when you think|can you say|should one know) about {topic}? (Be brief.|Keep it short.|Answer shortly.)
(Write|Invent|Make up) a (slogan|headline|caption|short poem|tweet|short advertisement) about {topic}.
(I need|I am looking for|We need) a (short|brief) (text|description|remark) about {topic}.
(Say|Share) (something|a thought|an idea) (nice |interesting |funny |)about {topic}.
(Send|Write) a (friend|colleague|neighbor) a (short|quick) (message|note|mail) about {topic}.
(Topic|Subject): {topic}. (Write a short text.|A sentence or two.|Write a few lines.)
(How would you|Could you) (sum up|summarize|put into words) {topic}?
"""
_LONG_REQUESTS = """
(Write|Compose|Draft) (a long|a detailed|an extensive) (essay|article|text|report) about {topic}.
(Write|Tell me|Invent) a (long |)(story|tale) about {topic}.
(Write|Draft) a (blog post|newspaper article|school essay|column) about {topic}.
(Explain|Describe) {topic} (in detail|at length|thoroughly|step by step).
(Write|Draft|Compose) a (letter|speech|lecture|talk) about {topic}.
(Give|Write) (me |us |)(a detailed|a thorough|a complete) (guide|introduction|overview) (to|of) {topic}.
(Tell|Teach) me everything (you know|there is to know|important) about {topic}.
(I need|We need|I am looking for) a (longer|detailed) (text|article|essay) about {topic}.
(Write|Compose) several paragraphs about {topic}.
What (should|must) (everyone|a beginner|a student) know about {topic}? (Go into detail.|Give a long answer.)
(Topic|Subject): {topic}. Write (a page|a long text|an essay).
(Discuss|Examine) {topic} (from several sides|in depth|with examples).
"""
_LAYOUTS = """
{request} {constraints}
{request}\\n\\n{constraints}
{constraints} {request}
Please help me. {request} {constraints}
{request} {constraints} Thank you!
{request}\\n{listed}
(Task|Your task): {request}\\n(Rule|Condition|Requirement): {listed}
(Hello!|Hi!|Good morning!) {request} {constraints}
{request} (Also|And one more thing): {constraints}
(Follow the rule exactly.|Please follow the instructions.) {request} {constraints}
(For my class|For a project|For our website): {request} {constraints}
(Note|Important): {constraints} {request}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Something that a response either keeps to or does not."""

    check: str
    """A name of `CHECKS`."""
    words: tuple[str, ...] = ()
    number: int = 0

    def is_kept(self, response: str) -> bool:
        """Say whether a response keeps to it."""
        return CHECKS[self.check](response, self.words, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One prompt with its constraints."""

    kind: str
    """Of the first constraint: one of `KINDS`."""
    prompt: str
    constraints: tuple[Constraint, ...]
    """One or two."""
    is_long: bool = False
    """Whether a long text is asked for."""
    subject: str = ""
    """What it is about, without its wording."""

    @property
    def key(self) -> str:
        """The instruction without its wording: what makes two of them the same one."""
        asked = [[c.check, c.words, c.number] for c in self.constraints]
        return json.dumps([self.kind, self.subject, self.is_long, asked])

    def share_kept(self, response: str) -> float:
        """Return the share of the constraints that a response keeps to."""
        return sum(c.is_kept(response) for c in self.constraints) / len(self.constraints)

    def reward(self, response: str) -> float:
        """Return 1.0 for a response that keeps to every constraint, else 0.0."""
        return float(self.share_kept(response) == 1.0)


def generate_instructions(
    part: Part, *, seed: int, kinds: Sequence[str] = ()
) -> Iterator[Instruction]:
    """Yield instructions of one part, every kind as often as any other, no prompt twice.

    It ends where no new one is found.

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
    rng = random.Random(f"instructions/{part}/{seed}")
    seen: set[str] = set()
    while True:
        for kind in rng.sample(chosen, len(chosen)):
            found = _new(kind, part, rng, seen)
            if found is None:
                return
            yield found


def _new(kind: str, part: Part, rng: random.Random, seen: set[str]) -> Instruction | None:
    held_out = part == "unseen_wording"
    for _ in range(_MOST_TRIES):
        found = _draw(kind, rng, held_out=held_out)
        if found.key not in seen and part in _parts_of(found.key):
            seen.add(found.key)
            return found
    return None


def _parts_of(key: str) -> tuple[Part, ...]:
    """Return the parts that a key may be in: by its hash where training has its like."""
    bucket = int(digest_of(key)[:2], 16)
    own: Part = "seen" if bucket < 26 else "calibration" if bucket < 52 else "train"
    return (own, "unseen_wording", "unseen_kind")


def _draw(kind: str, rng: random.Random, *, held_out: bool) -> Instruction:
    words = vocabulary(held_out=held_out)
    if kind in QUESTION_KINDS:
        question = QUESTION_KINDS[kind](rng, words, held_out)
        answer = Constraint(check=question.check, words=question.words, number=question.number)
        return Instruction(
            kind=kind, prompt=question.text, constraints=(answer,), subject=question.subject
        )
    return _text(kind, rng, words, held_out=held_out)


def _text(kind: str, rng: random.Random, words: Vocabulary, *, held_out: bool) -> Instruction:
    is_long = rng.choices(*_lengths(CONSTRAINT_KINDS[kind]))[0]
    asked = [CONSTRAINT_KINDS[name] for name in (kind, *_second(kind, rng))]
    topic = rng.choice(words.topics)
    subject = _subject(topic, rng, words)
    setting = Setting(topic=topic, is_long=is_long, vocabulary=words)
    demands = [each.draw(rng, setting) for each in asked]
    told = [
        say(each.patterns, rng, demand.fields, held_out=held_out)
        for each, demand in zip(asked, demands, strict=True)
    ]
    requests = _LONG_REQUESTS if is_long else _SHORT_REQUESTS
    request = say(requests, rng, {"topic": subject}, held_out=held_out)
    fields = {"request": request, "constraints": " ".join(told), "listed": "\n".join(told)}
    return Instruction(
        kind=kind,
        prompt=say(_LAYOUTS, rng, fields, held_out=held_out).strip(),
        constraints=tuple(
            Constraint(check=d.check, words=d.words, number=d.number) for d in demands
        ),
        is_long=is_long,
        subject=subject,
    )


def _lengths(kind: ConstraintKind) -> tuple[list[bool], list[float]]:
    """Return whether a long text may be asked for, and the weight of each answer."""
    return list(kind.lengths), [_LONG_SHARE if is_long else 1 - _LONG_SHARE for is_long in kind.lengths]


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
