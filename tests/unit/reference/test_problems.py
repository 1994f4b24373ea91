"""The puzzles: honest, solvable, and split so that nothing leaks."""

import random
from itertools import islice

import pytest

from selfeval_backend.reference.problems import (
    Problem,
    demonstrate,
    extract_answer,
    generate_problems,
    plans,
    reward,
    work_out,
)

PUZZLE = Problem(numbers=(8, 19, 15, 5), target=21, text="Use 8, 19, 15 and 5 to make 21.")


def test_a_worked_plan_reads_as_in_the_module_docstring() -> None:
    assert work_out((19, 15, -8, -5), 21) == (
        "Plan: 19+15-8-5.\n"
        "Start with 19=21-2.\n"
        "Then add 15: 19+15=34=21+13.\n"
        "Then take away 8: 34-8=26=21+5.\n"
        "Then take away 5: 26-5=21=21+0.\n"
        "That makes 21.\n"
        "#### 19+15-8-5"
    )
    assert "Then add 15: 19+15=34.\n" in work_out((19, 15, -8, -5), None)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (work_out((19, 15, -8, -5), 21), 1.0),
        (work_out((15, 19, -5, -8), 21), 1.0),
        (work_out((19, 15, 8, -5), 21), 0.0),  # misses the target
        ("#### 19+15-8-5", 1.0),
        ("#### 19+2", 0.0),  # reaches it with other numbers
        ("#### 19+15-13", 0.0),
        ("19+15-8-5", 0.0),  # no answer mark
        ("", 0.0),
        ("#### ", 0.0),
    ],
)
def test_reward_needs_every_number_once_and_the_target(response: str, expected: float) -> None:
    assert reward(PUZZLE, response) == expected


def test_every_generated_problem_can_be_solved_and_its_demonstrations_are_honest() -> None:
    rng = random.Random(0)
    for problem in islice(generate_problems("train", seed=3), 200):
        assert any(value == problem.target for _, value in plans(problem))
        right, reached = demonstrate(problem, rng, reach=True)
        assert reached
        assert reward(problem, right) == 1.0
        wrong, reached = demonstrate(problem, rng, reach=False)
        assert reward(problem, wrong) == float(reached)


def test_splits_share_no_problem_and_repeat_by_seed() -> None:
    keys = {
        split: {p.key for p in islice(generate_problems(split, seed=0), 2000)}
        for split in ("train", "calibration", "test")
    }
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["calibration"]
    assert not keys["calibration"] & keys["test"]
    again = [p.text for p in islice(generate_problems("test", seed=0), 50)]
    assert again == [p.text for p in islice(generate_problems("test", seed=0), 50)]
    assert again != [p.text for p in islice(generate_problems("test", seed=1), 50)]


def test_wording_and_order_are_not_part_of_a_problem() -> None:
    other = Problem(numbers=(5, 8, 15, 19), target=21, text="Make 21 from 5, 8, 15 and 19.")
    assert other.key == PUZZLE.key
    assert other.split == PUZZLE.split


def test_the_last_answer_counts() -> None:
    assert extract_answer("#### 1+1\n#### 2+3") == "2+3"
    assert extract_answer("no answer") is None
