"""The reference domain: reach a target from given numbers by adding and taking away.

Checking is easy and finding is hard: which numbers to add and which to take away is a subset-sum
problem that a small model has to guess, while the working that follows shows, step by step, where
the guess leads. A response states its plan first and then works it out in words, so that a mistake
is made early and becomes visible gradually; each total is also written as the target and a
distance::

    Use 8, 19, 15 and 5 to make 21.

    Plan: 19+15-8-5.
    Start with 19=21-2.
    Then add 15: 19+15=34=21+13.
    Then take away 8: 34-8=26=21+5.
    Then take away 5: 26-5=21=21+0.
    That makes 21.
    #### 19+15-8-5

A *problem* is its set of numbers and its target; wording and order are not part of it. Problems are
split into train, calibration and test by a hash of exactly that, so that no wording or order of a
held-out problem is ever trained on.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = [
    "DEMONSTRATION_SIZES",
    "TASK_SIZES",
    "Problem",
    "Split",
    "demonstrate",
    "extract_answer",
    "generate_problems",
    "plans",
    "reward",
    "work_out",
]

Split = Literal["train", "calibration", "test"]

_WORDINGS = (
    "Use {numbers} to make {target}.",
    "Make {target} from {numbers}.",
    "How can {numbers} make {target}?",
)

TASK_SIZES: Mapping[int, int] = MappingProxyType({3: 60, 4: 40})
"""How many numbers a problem has, and how often: of the task that the model is measured on."""

DEMONSTRATION_SIZES: Mapping[int, int] = MappingProxyType({3: 20, 4: 26, 5: 30, 6: 24})
"""The same for demonstrations: longer ones teach more arithmetic each."""
_LARGEST_NUMBER = 20
_EXPRESSION = re.compile(r"####[ ]*(\d+(?:[+-]\d+)*)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One puzzle: use every number once, adding or taking away, to reach the target."""

    numbers: tuple[int, ...]
    """Distinct, in the order of the text."""
    target: int
    """Positive, and reachable."""
    text: str
    """The prompt."""

    @property
    def key(self) -> str:
        """The problem without its wording and order: what the split is made on."""
        return f"{','.join(map(str, sorted(self.numbers)))}={self.target}"

    @property
    def split(self) -> Split:
        """The split that this problem belongs to, by a hash of its key."""
        bucket = hashlib.sha256(self.key.encode()).digest()[0]
        return "test" if bucket < 26 else "calibration" if bucket < 52 else "train"


def generate_problems(
    split: Split, *, seed: int, unique: bool = True, sizes: Mapping[int, int] = TASK_SIZES
) -> Iterator[Problem]:
    """Yield problems of one split, without end, the same ones for the same seed.

    Args:
        split: Which split they are of.
        seed: Seed of the generator.
        unique: Leave out problems that were yielded before (by key); costs memory.
        sizes: Weight of each number of numbers.
    """
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while True:
        problem = _draw_problem(rng, sizes)
        if problem.split != split or (unique and problem.key in seen):
            continue
        if unique:
            seen.add(problem.key)
        yield problem


def _draw_problem(rng: random.Random, sizes: Mapping[int, int]) -> Problem:
    size = rng.choices(list(sizes), list(sizes.values()))[0]
    while True:
        numbers = tuple(rng.sample(range(1, _LARGEST_NUMBER + 1), size))
        target = sum(n if rng.random() < 0.5 else -n for n in numbers)
        if target > 0:
            break
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    text = rng.choice(_WORDINGS).format(numbers=listed, target=target)
    return Problem(numbers=numbers, target=target, text=text)


def plans(problem: Problem) -> list[tuple[tuple[int, ...], int]]:
    """Every plan that stays above zero, as (signed numbers, value): what is added comes first."""
    found = []
    for signs in itertools.product((1, -1), repeat=len(problem.numbers)):
        signed = [s * n for s, n in zip(signs, problem.numbers, strict=True)]
        value = sum(signed)
        if value > 0:
            found.append((tuple(sorted(signed, key=lambda n: n < 0)), value))
    return found


def work_out(plan: tuple[int, ...], target: int | None) -> str:
    """Write the response that follows a plan, with honest arithmetic.

    Args:
        plan: Signed numbers; the first one is positive.
        target: Each total is also written as the target and a distance; None: it is not.
    """
    expression = str(plan[0]) + "".join(f"{n:+d}" for n in plan[1:])
    lines = [f"Plan: {expression}.", f"Start with {plan[0]}{_distance(plan[0], target)}."]
    total = plan[0]
    for n in plan[1:]:
        verb = "Then add" if n > 0 else "Then take away"
        reached = total + n
        lines.append(f"{verb} {abs(n)}: {total}{n:+d}={reached}{_distance(reached, target)}.")
        total = reached
    return "\n".join([*lines, f"That makes {total}.", f"#### {expression}"])


def _distance(total: int, target: int | None) -> str:
    return "" if target is None else f"={target}{total - target:+d}"


def demonstrate(
    problem: Problem, rng: random.Random, *, reach: bool, distances: bool = True
) -> tuple[str, bool]:
    """Write a demonstration that reaches the target or misses it, and tell which.

    Half of the misses end near the target, as a model's own mistakes do. Where every plan reaches
    the target, none misses.
    """
    shown = problem.target if distances else None
    candidates = plans(problem)
    right = [plan for plan, value in candidates if value == problem.target]
    wrong = [(plan, value) for plan, value in candidates if value != problem.target]
    if reach or not wrong:
        return work_out(rng.choice(right), shown), True
    if rng.random() < 0.5:
        wrong.sort(key=lambda item: abs(item[1] - problem.target))
        wrong = wrong[:4]
    return work_out(rng.choice(wrong)[0], shown), False


def extract_answer(response: str) -> str | None:
    """Return the expression behind the last ``####``, or None where there is none."""
    match = _EXPRESSION.search(response)
    return match.group(1) if match else None


def reward(problem: Problem, response: str) -> float:
    """Return 1.0 where the answer uses every number once and reaches the target, else 0.0."""
    answer = extract_answer(response)
    if answer is None:
        return 0.0
    terms = [int(term) for term in re.findall(r"[+-]?\d+", answer)]
    uses_all = sorted(map(abs, terms)) == sorted(problem.numbers)
    return float(uses_all and sum(terms) == problem.target)
