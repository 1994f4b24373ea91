"""The puzzles: honest, solvable, and split so that nothing leaks."""

import random
from itertools import islice

import pytest

from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    Problem,
    Puzzle,
    demonstrate,
    extract_answer,
    generate_problems,
    reward,
    work_out,
)

FIRST = Puzzle(numbers=(3, 19, 25), target=41)
SECOND = Puzzle(numbers=(8, 12), target=20)
PROBLEM = Problem(
    puzzles=(FIRST, SECOND), text="Use 3, 19 and 25 to make 41, then 8 and 12 to make 20."
)


def test_worked_plans_read_as_in_the_module_docstring() -> None:
    shown = work_out(PROBLEM, [(-3, 19, 25), (8, 12)])
    assert shown.text == (
        "To make 41 from 3, 19 and 25:\n"
        "Take away 3: minus 3, 44 short.\n"
        "Add 19: 16, 25 short.\n"
        "Add 25: 41, exactly.\n"
        "To make 20 from 8 and 12:\n"
        "Add 8: 8, 12 short.\n"
        "Add 12: 20, exactly.\n"
        "#### -3 + 19 + 25, 8 + 12"
    )
    assert shown.is_right
    assert all(piece.is_learned for piece in shown.pieces)


def test_of_a_miss_only_the_choices_that_lead_there_are_not_learned() -> None:
    shown = work_out(PROBLEM, [(-3, 19, 25), (8, -12)])
    assert not shown.is_right
    assert [piece.text for piece in shown.pieces if not piece.is_learned] == ["Add", "Take"]
    assert "Take away 12: minus 4, 24 short.\n" in shown.text


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("#### 25 + 19 - 3, 12 + 8", 1.0),
        ("#### -3 + 19 + 25, 8 + 12", 1.0),
        ("#### 19-3+25, 8+12", 1.0),
        ("#### 25 + 19 + 3, 12 + 8", 0.0),  # misses a target
        ("#### 25 + 19 - 3", 0.0),  # leaves a puzzle out
        ("#### 12 + 8, 25 + 19 - 3", 0.0),  # in another order
        ("#### 41, 12 + 8", 0.0),  # reaches it with other numbers
        ("#### 25 + 19 - 3, 12 + 8, 1 + 1", 0.0),
        ("25 + 19 - 3, 12 + 8", 0.0),  # no answer mark
        ("", 0.0),
        ("#### ", 0.0),
    ],
)
def test_reward_needs_every_number_once_and_every_target(response: str, expected: float) -> None:
    assert reward(PROBLEM, response) == expected


def test_every_generated_problem_can_be_solved_and_its_demonstrations_say_what_they_are() -> None:
    rng = random.Random(0)
    for problem in islice(generate_problems("train", seed=3, shapes=DEMONSTRATION_SHAPES), 200):
        right = demonstrate(problem, rng, right=True)
        assert right.is_right
        assert reward(problem, right.text) == 1.0
        wrong = demonstrate(problem, rng, right=False)
        assert not wrong.is_right
        assert reward(problem, wrong.text) == 0.0


def test_splits_share_no_puzzle_and_repeat_by_seed() -> None:
    keys = {
        split: {
            puzzle.key
            for problem in islice(generate_problems(split, seed=0), 2000)
            for puzzle in problem.puzzles
        }
        for split in ("train", "calibration", "test")
    }
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["calibration"]
    assert not keys["calibration"] & keys["test"]
    again = [p.text for p in islice(generate_problems("test", seed=0), 50)]
    assert again == [p.text for p in islice(generate_problems("test", seed=0), 50)]
    assert again != [p.text for p in islice(generate_problems("test", seed=1), 50)]


def test_the_order_of_the_numbers_is_not_part_of_a_puzzle() -> None:
    other = Puzzle(numbers=(25, 3, 19), target=41)
    assert other.key == FIRST.key
    assert other.split == FIRST.split


def test_the_last_answer_counts_and_the_order_of_its_terms_does_not() -> None:
    assert extract_answer("#### 1 + 1\n#### 2 + 3") == extract_answer("#### 3+2")
    assert extract_answer("#### 25 - 3 + 19, 8 + 12") == extract_answer("#### 19+25-3, 12+8")
    assert extract_answer("no answer") is None
    assert extract_answer("#### 1,2") == "+1, +2"


def test_a_long_line_that_is_no_answer_is_refused_at_once() -> None:
    """With a pattern that tries every way to cut it up, this would not end."""
    assert extract_answer("#### " + " + 12" * 200 + " and more") is None
    assert extract_answer("#### " + "12" * 200 + ".") is None
