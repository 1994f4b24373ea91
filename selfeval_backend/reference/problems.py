"""The reference domain: reach targets from given numbers by adding and taking away.

Checking is easy and finding is hard: which numbers to add and which to take away is a subset-sum
problem that a small model has to guess in part, while each line of the working says how far from
the target it led. A problem is one puzzle or several, one after the other, and all have to be
solved; so a mistake is made somewhere on the way, and from there on it can be seen::

    Use 3, 19 and 25 to make 41, then 8 and 12 to make 20.

    To make 41 from 3, 19 and 25:
    Take away 3: minus 3, 44 short.
    Add 19: 16, 25 short.
    Add 25: 41, exactly.
    To make 20 from 8 and 12:
    Add 8: 8, 12 short.
    Add 12: 20, exactly.
    #### -3 + 19 + 25, 8 + 12

A *puzzle* is its set of numbers and its target; wording and order are not part of it. Puzzles are
split into train, calibration and test by a hash of exactly that, and a problem is made of puzzles
of one split: no wording or order of a held-out puzzle, alone or among others, is ever trained on.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = [
    "DEMONSTRATION_SHAPES",
    "TASK_SHAPES",
    "Demonstration",
    "Piece",
    "Plan",
    "Problem",
    "Puzzle",
    "Shape",
    "Split",
    "demonstrate",
    "expression_of",
    "extract_answer",
    "generate_problems",
    "plans_of",
    "reward",
    "split_of",
    "work_out",
]

Split = Literal["train", "calibration", "test"]

Shape = tuple[int, ...]
"""How many numbers each puzzle of a problem has."""

TASK_SHAPES: Mapping[Shape, int] = MappingProxyType(
    {(3,): 6, (3, 2): 20, (4, 2): 20, (3, 3): 10, (4, 3): 14, (3, 2, 2): 16, (4, 2, 2): 14}
)
"""Shapes of problems, and how often: of the task that the model is measured on."""

DEMONSTRATION_SHAPES: Mapping[Shape, int] = MappingProxyType(
    {
        (3,): 6,
        (4,): 6,
        (5,): 6,
        (2, 3): 6,
        (3, 2): 8,
        (4, 2): 10,
        (3, 3): 8,
        (3, 4): 4,
        (4, 3): 10,
        (5, 2): 4,
        (2, 2, 3): 4,
        (2, 3, 2): 4,
        (3, 2, 2): 10,
        (4, 2, 2): 10,
        (4, 3, 2): 4,
    }
)
"""The same for demonstrations: hard puzzles come in any place."""

_LARGEST_NUMBER = 25
_NEAR_MISSES = 4
_MOST_DIGITS = 20
"""Of a number in an answer that are looked at."""
# Nothing in it is tried twice: a text that ends otherwise is refused at once, however long it is.
_ANSWER = re.compile(r"####((?>(?: ?[+-]? ?\d++,?)+))\s*$")
_TERM = re.compile(r"([+-]?) ?(\d+)")


def split_of(key: str) -> Split:
    """Return the split that a key belongs to, by its hash: a tenth each is held out."""
    bucket = hashlib.sha256(key.encode()).digest()[0]
    return "test" if bucket < 26 else "calibration" if bucket < 52 else "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """Use every number once, adding or taking away, to reach the target."""

    numbers: tuple[int, ...]
    """Distinct, in the order of the text."""
    target: int
    """Positive, and reachable."""

    @property
    def key(self) -> str:
        """The puzzle without its order."""
        return f"{','.join(map(str, sorted(self.numbers)))}={self.target}"

    @property
    def split(self) -> Split:
        """The split that this puzzle belongs to, by a hash of its key."""
        return split_of(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Puzzles of one split, to be solved one after the other."""

    puzzles: tuple[Puzzle, ...]
    text: str
    """The prompt."""

    @property
    def key(self) -> str:
        """The problem without its wording: what makes two problems the same one."""
        return "; ".join(puzzle.key for puzzle in self.puzzles)


def generate_problems(
    split: Split,
    *,
    seed: int,
    unique: bool = True,
    shapes: Mapping[Shape, int] = TASK_SHAPES,
) -> Iterator[Problem]:
    """Yield problems of one split, without end, the same ones for the same seed.

    Args:
        split: Which split their puzzles are of.
        seed: Seed of the generator.
        unique: Leave out problems that were yielded before (by key); costs memory.
        shapes: Weight of each shape.
    """
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while True:
        shape = rng.choices(list(shapes), list(shapes.values()))[0]
        puzzles = tuple(_draw_puzzle(rng, size, split) for size in shape)
        problem = Problem(puzzles=puzzles, text=rng.choice(_WORDINGS)(puzzles))
        if unique and problem.key in seen:
            continue
        if unique:
            seen.add(problem.key)
        yield problem


def _draw_puzzle(rng: random.Random, size: int, split: Split) -> Puzzle:
    while True:
        numbers = tuple(rng.sample(range(1, _LARGEST_NUMBER + 1), size))
        target = sum(n if rng.random() < 0.5 else -n for n in numbers)
        if target > 0 and (puzzle := Puzzle(numbers=numbers, target=target)).split == split:
            return puzzle


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _use(puzzles: Sequence[Puzzle]) -> str:
    return f"Use {', then '.join(f'{_listed(p.numbers)} to make {p.target}' for p in puzzles)}."


def _make(puzzles: Sequence[Puzzle]) -> str:
    return f"Make {', then '.join(f'{p.target} from {_listed(p.numbers)}' for p in puzzles)}."


def _how(puzzles: Sequence[Puzzle]) -> str:
    return f"How can {', then '.join(f'{_listed(p.numbers)} make {p.target}' for p in puzzles)}?"


_WORDINGS = (_use, _make, _how)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a demonstration's text that begins and ends with a token."""

    text: str
    is_learned: bool
    """False for a choice that leads to a miss: nobody should learn to make it."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A response, and whether it solves every puzzle."""

    pieces: tuple[Piece, ...]
    is_right: bool

    @property
    def text(self) -> str:
        """The response."""
        return "".join(piece.text for piece in self.pieces)


def demonstrate(problem: Problem, rng: random.Random, *, right: bool) -> Demonstration:
    """Write a response that solves every puzzle, or one that misses some: half of them, on average.

    Half of the misses end near the target, as a model's own mistakes do. Where no choice of signs
    misses, the response is right.
    """
    solved = [True] * len(problem.puzzles)
    while not right and all(solved):
        solved = [rng.random() < 0.5 for _ in problem.puzzles]
    plans = [
        _reach(puzzle, rng) if hit else _miss(puzzle, rng)
        for puzzle, hit in zip(problem.puzzles, solved, strict=True)
    ]
    return work_out(problem, plans)


Plan = tuple[int, ...]
"""A puzzle's numbers in the order of the text, signed."""


def _reach(puzzle: Puzzle, rng: random.Random) -> Plan:
    return rng.choice([plan for plan in plans_of(puzzle) if sum(plan) == puzzle.target])


def _miss(puzzle: Puzzle, rng: random.Random) -> Plan:
    misses = [plan for plan in plans_of(puzzle) if sum(plan) != puzzle.target]
    if rng.random() < 0.5:
        misses = sorted(misses, key=lambda plan: abs(sum(plan) - puzzle.target))[:_NEAR_MISSES]
    return rng.choice(misses)


def plans_of(puzzle: Puzzle) -> list[Plan]:
    """Return every choice of signs."""
    every = itertools.product((1, -1), repeat=len(puzzle.numbers))
    return [tuple(s * n for s, n in zip(signs, puzzle.numbers, strict=True)) for signs in every]


def work_out(problem: Problem, plans: Sequence[Plan]) -> Demonstration:
    """Write the response that follows a plan for each puzzle, with honest arithmetic."""
    pieces: list[Piece] = []
    for puzzle, plan in zip(problem.puzzles, plans, strict=True):
        pieces += _working(puzzle, plan)
    answer = ", ".join(expression_of(plan) for plan in plans)
    pieces.append(Piece(f"#### {answer}", is_learned=True))
    is_right = all(sum(plan) == p.target for p, plan in zip(problem.puzzles, plans, strict=True))
    return Demonstration(tuple(pieces), is_right)


def _working(puzzle: Puzzle, plan: Plan) -> Iterator[Piece]:
    yield Piece(f"To make {puzzle.target} from {_listed(puzzle.numbers)}:\n", is_learned=True)
    total = 0
    for n in plan:
        total += n
        yield Piece("Add" if n > 0 else "Take", is_learned=sum(plan) == puzzle.target)
        written = f"minus {-total}" if total < 0 else str(total)
        verb = "" if n > 0 else " away"
        distance = _distance(total, puzzle.target)
        yield Piece(f"{verb} {abs(n)}: {written},{distance}.\n", is_learned=True)


def _distance(total: int, target: int) -> str:
    if total == target:
        return " exactly"
    return f" {target - total} short" if total < target else f" {total - target} over"


def expression_of(plan: Plan) -> str:
    """Write a plan as a sum."""
    rest = (f" {'+' if n > 0 else '-'} {abs(n)}" for n in plan[1:])
    return f"{plan[0]}{''.join(rest)}"


def extract_answer(response: str) -> str | None:
    """Return what stands behind the last ``####``, the same text for the same sums, or None.

    The terms of each sum are put into one order: "19 + 25 - 3" and "25-3+19" are one answer.
    """
    match = _ANSWER.search(response)
    if match is None:
        return None
    sums = (sorted(_terms(part), reverse=True) for part in match.group(1).split(","))
    return ", ".join("".join(f"{n:+d}" for n in terms) for terms in sums)


def _terms(expression: str) -> list[int]:
    # No puzzle has numbers so long; what is cut off would only take time, and Python refuses it.
    return [
        int(sign + (digits.lstrip("0")[:_MOST_DIGITS] or "0"))
        for sign, digits in _TERM.findall(expression)
    ]


def reward(problem: Problem, response: str) -> float:
    """Return 1.0 where the answer uses every number once and reaches every target, else 0.0."""
    answer = extract_answer(response)
    if answer is None:
        return 0.0
    sums = [_terms(part) for part in answer.split(", ")]
    if len(sums) != len(problem.puzzles):
        return 0.0
    return float(
        all(
            sorted(map(abs, terms)) == sorted(puzzle.numbers) and sum(terms) == puzzle.target
            for terms, puzzle in zip(sums, problem.puzzles, strict=True)
        )
    )
