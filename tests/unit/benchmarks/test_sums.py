"""Sums, equations and word problems: every answer is worked out again from the text."""

from __future__ import annotations

import re
from itertools import islice
from math import gcd

import pytest

from benchmarks.sums import KINDS, Sum, final_answer, generate_sums, score

PROBLEMS = list(islice(generate_sums(seed=0), 200))


def of_kind(kind: str) -> list[Sum]:
    return [problem for problem in PROBLEMS if problem.kind == kind]


def numbers(problem: Sum) -> list[int]:
    return list(map(int, re.findall(r"\d+", problem.prompt)))


def test_kinds_come_in_turn_and_no_prompt_twice() -> None:
    assert [problem.kind for problem in PROBLEMS[:5]] == list(KINDS)
    assert len({problem.prompt for problem in PROBLEMS}) == 200
    assert list(islice(generate_sums(seed=0), 200)) == PROBLEMS
    assert next(generate_sums(seed=1)) != PROBLEMS[0]


@pytest.mark.parametrize("kind", ["chain_sum", "basic_arithmetic"])
def test_expressions(kind: str) -> None:
    for problem in of_kind(kind):
        found = re.search(r"(?:problem:|Calculate) ([-+*() \d]+)", problem.prompt)
        assert found is not None
        assert eval(found[1].strip()) == problem.answer


def test_equations_hold() -> None:
    for problem in of_kind("simple_equation"):
        found = re.search(r"(\d+)\*[a-z] ([+-]) (\d+) = (-?\d+)", problem.prompt)
        assert found is not None
        left = eval(f"{found[1]} * {problem.answer} {found[2]} {found[3]}")
        assert left == int(found[4])


def test_divisors() -> None:
    for problem in of_kind("gcd"):
        assert gcd(*numbers(problem)) == problem.answer > 1


def test_word_problems() -> None:
    ways = {
        "away": lambda a, b, c: a + b - c,
        "left over": lambda a, b, c: a * b + c,
        "loses": lambda a, b, c: a * b - c,
        "together": lambda a, b, c: a + (a + b) + (a + b + c),
    }
    for problem in of_kind("word_problem"):
        (way,) = [way for word, way in ways.items() if word in problem.prompt]
        assert way(*numbers(problem)) == problem.answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"3 + 4 = 7, so \boxed{7}.", "7"),
        (r"\boxed{6} or rather \boxed{ 1,000.0 }", "1000"),
        (r"\boxed{x = 7}", "x = 7"),
        ("The answer is 7.", None),
        (r"\boxed{7", None),
        (r"\boxed{}", None),
    ],
)
def test_the_answer_is_what_the_last_box_holds(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


def test_a_response_is_right_where_its_box_is() -> None:
    assert score("3 + 4 =", r"\boxed{7.0}", "7") == 1.0
    assert score("3 + 4 =", r"\boxed{8}", "7") == 0.0
    assert score("3 + 4 =", "7", "7") == 0.0
