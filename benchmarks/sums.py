r"""Sums, equations and word problems for small chat models that solve some of them.

Five kinds in turn, small whole numbers, each with one whole number as its answer, which a response
has to put into ``\boxed{}``. The kinds and the way of asking follow reasoning-gym's chain_sum,
basic_arithmetic, simple_equations, gcd and gsm_symbolic.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from math import gcd

from selfeval_backend.scorers.numbers import final_part, normalised_number

__all__ = ["KINDS", "Sum", "final_answer", "generate_sums", "score"]

_ENDING = "\nThink briefly, then put the final answer in \\boxed{}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """One problem."""

    kind: str
    """One of `KINDS`."""
    prompt: str
    answer: int


def generate_sums(*, seed: int) -> Iterator[Sum]:
    """Yield problems without end, the kinds in turn, no prompt twice; the same ones for a seed."""
    rng, seen = random.Random(f"sums/{seed}"), set()
    for kind in cycle(KINDS):
        while True:
            text, answer = KINDS[kind](rng)
            if text not in seen:
                break
        seen.add(text)
        yield Sum(kind=kind, prompt=text + _ENDING, answer=answer)


def score(prompt: str, response: str, answer: str) -> float:
    """Return 1.0 where a response ends on the answer, whatever the prompt, else 0.0."""
    return float(final_answer(response) == answer)


def final_answer(response: str) -> str | None:
    r"""Return what the last ``\boxed{}`` holds, numbers in their plainest form; None: nothing."""
    part = final_part(response)
    return None if part is None else normalised_number(part) or None


def _chain_sum(rng: random.Random) -> tuple[str, int]:
    terms = [rng.randint(1, rng.choice((9, 99))) for _ in range(rng.randint(2, 4))]
    signed = [terms[0], *(rng.choice((1, -1)) * n for n in terms[1:])]
    rest = (f" {'+' if n > 0 else '-'} {abs(n)}" for n in signed[1:])
    text = f"{signed[0]}{''.join(rest)}"
    return f"State the final answer to the following arithmetic problem: {text} =", sum(signed)


def _basic_arithmetic(rng: random.Random) -> tuple[str, int]:
    text, value = _expression(rng, num_terms=rng.randint(2, 3))
    return f"Calculate {text}.", value


_OPERATIONS = (("+", operator.add), ("-", operator.sub), ("*", operator.mul))


def _expression(rng: random.Random, *, num_terms: int) -> tuple[str, int]:
    if num_terms == 1:
        number = rng.randint(2, 20)
        return str(number), number
    inner, value = _expression(rng, num_terms=num_terms - 1)
    if num_terms > 2:
        inner = f"({inner})"
    number, (sign, apply) = rng.randint(2, 12), rng.choice(_OPERATIONS)
    if rng.random() < 0.5:
        return f"{inner} {sign} {number}", apply(value, number)
    return f"{number} {sign} {inner}", apply(number, value)


_EQUATIONS = (
    "Solve for {x}: {equation}",
    "Find the value of {x} in the equation: {equation}",
    "Determine the value of {x} that satisfies: {equation}",
)


def _simple_equation(rng: random.Random) -> tuple[str, int]:
    name, value, factor = rng.choice("abcxyz"), rng.randint(1, 20), rng.randint(2, 9)
    number, (sign, apply) = rng.randint(1, 50), rng.choice(_OPERATIONS[:2])
    equation = f"{factor}*{name} {sign} {number} = {apply(factor * value, number)}"
    return rng.choice(_EQUATIONS).format(x=name, equation=equation), value


def _gcd(rng: random.Random) -> tuple[str, int]:
    common = rng.randint(2, 12)
    first, second = (common * n for n in rng.sample(range(1, 60 // common + 1), 2))
    text = f"Find the Greatest Common Divisor (GCD) of these numbers: {first}, {second}."
    return text, gcd(first, second)


_NAMES = ("Amira", "Ben", "Chen", "Dora", "Emil", "Fatou", "Goran", "Hanna")
_THINGS = ("apples", "books", "cards", "coins", "marbles", "pencils", "shells", "stamps")
_STORIES: tuple[tuple[str, Callable[[int, int, int], int]], ...] = (
    (
        "{name} has {a} {things}, finds {b} more and then gives {c} of them away. "
        "How many {things} does {name} have now?",
        lambda a, b, c: a + b - c,
    ),
    (
        "{name} fills {a} boxes with {b} {things} each, and {c} {things} are left over. "
        "How many {things} are there in all?",
        lambda a, b, c: a * b + c,
    ),
    (
        "{name} buys {a} bags of {b} {things} and loses {c} {things} on the way home. "
        "How many {things} are left?",
        lambda a, b, c: a * b - c,
    ),
    (
        "{name} has {a} {things}. A friend has {b} more than {name}, and a neighbour has {c} more "
        "than that friend. How many {things} do the three have together?",
        lambda a, b, c: 3 * a + 2 * b + c,
    ),
)


def _word_problem(rng: random.Random) -> tuple[str, int]:
    story, answer = rng.choice(_STORIES)
    a, b, c = rng.randint(5, 20), rng.randint(5, 20), rng.randint(1, 9)
    text = story.format(name=rng.choice(_NAMES), things=rng.choice(_THINGS), a=a, b=b, c=c)
    return text, answer(a, b, c)


KINDS: Mapping[str, Callable[[random.Random], tuple[str, int]]] = {
    "chain_sum": _chain_sum,
    "basic_arithmetic": _basic_arithmetic,
    "simple_equation": _simple_equation,
    "gcd": _gcd,
    "word_problem": _word_problem,
}
"""What draws the text and the answer of a problem of each kind."""
