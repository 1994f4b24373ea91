"""Held-out problems as prompts with verifiers."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.tasks import reference_items
from selfeval_backend.reference.problems import demonstrate, generate_problems


def test_items_are_the_held_out_problems_of_the_seed() -> None:
    problems = list(islice(generate_problems("test", seed=7), 5))

    items = reference_items(5, seed=7)

    assert [item.prompt for item in items] == [p.text for p in problems]
    assert all(puzzle.split == "test" for problem in problems for puzzle in problem.puzzles)
    assert items[0].prompt != reference_items(1, seed=8)[0].prompt


def test_rewards_are_of_the_own_problem() -> None:
    problems = list(islice(generate_problems("test", seed=0), 2))
    items = reference_items(2, seed=0)
    answers = [demonstrate(p, random.Random(0), right=True).text for p in problems]

    assert [item.reward(answers[0]) for item in items] == [1.0, 0.0]
    assert [item.reward(answers[1]) for item in items] == [0.0, 1.0]
    assert items[0].reward("I do not know.") == 0.0


@pytest.mark.parametrize(
    ("n", "seed", "field"), [(0, 0, "n"), (-1, 0, "n"), (10_001, 0, "n"), (1, -1, "seed")]
)
def test_what_is_out_of_range_is_refused(n: int, seed: int, field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}: got "):
        reference_items(n, seed=seed)
