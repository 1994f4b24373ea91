"""The reference domain as the training pipeline sees it."""

from __future__ import annotations

from collections import Counter

import pytest

from selfeval_backend.reference.task import prompts, score, score_less_length

RIGHT = "To make 41 from 3, 19 and 25: ... #### -3 + 19 + 25"
ANSWER = "3,19,25=41"


def test_the_shapes_of_problems_can_be_chosen() -> None:
    rows = list(prompts(train=20, calibration=3, test=5, validation=4, shapes=[[3], [2, 2]]))
    assert Counter(row["split"] for row in rows) == {
        "train": 20,
        "validation": 4,
        "calibration": 3,
        "test": 5,
    }
    sizes = {tuple(len(puzzle.split(",")) for puzzle in row["answer"].split("; ")) for row in rows}
    assert sizes == {(3,), (2, 2)}


def test_of_two_right_responses_the_shorter_is_worth_more() -> None:
    longer = f"Well, then. {RIGHT}"
    assert score("", RIGHT, ANSWER) == score("", longer, ANSWER) == 1.0
    less = score_less_length("", RIGHT, ANSWER) - score_less_length("", longer, ANSWER)
    assert less == pytest.approx(2 * 0.003)
    assert score_less_length("", longer, ANSWER) > score_less_length("", "#### 1", ANSWER)
