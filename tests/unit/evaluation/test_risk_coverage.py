"""Risk and coverage, against values worked out by hand and by every order of ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, permutations
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.risk_coverage import RiskCoverage, risk_coverage

confidences = st.sampled_from((-math.inf, 0.0, 0.3, 0.7, 0.7000001, 1.0))
answers = st.lists(st.tuples(confidences, st.sampled_from((0.0, 0.5, 1.0))), min_size=1, max_size=7)
Answers = Sequence[tuple[float, float]]


def measured(pairs: Answers, **settings: Any) -> RiskCoverage:
    settings.setdefault("num_resamples", 2)
    return risk_coverage([c for c, _ in pairs], [r for _, r in pairs], **settings)


def accuracies(pairs: Answers, *shares: float) -> list[float]:
    return [point.accuracy.value for point in measured(pairs, shares=shares).points]


def area_of(rewards: Sequence[float]) -> float:
    """The area, by its definition, of answers in one order."""
    return fmean(1 - fmean(rewards[:count]) for count in range(1, len(rewards) + 1))


def test_four_answers_by_hand() -> None:
    four = [(0.7, 0.0), (0.9, 1.0), (0.6, 1.0), (0.8, 1.0)]
    found = measured(four)
    # In order: right, right, wrong, right; risks 0, 0, 1/3, 1/4.
    assert found.area.value == pytest.approx(7 / 48)
    assert found.perfect_area.value == pytest.approx(1 / 16)
    assert found.random_area.value == pytest.approx(1 / 4)
    assert found.gain.value == pytest.approx(1 / 4 - 7 / 48)
    assert accuracies(four, 1.0, 0.75, 0.5, 0.25) == pytest.approx([3 / 4, 2 / 3, 1, 1])
    # Three and a half answers: the fourth counts half.
    assert accuracies(four, 7 / 8) == pytest.approx([2.5 / 3.5])


def test_a_tie_is_the_mean_over_its_orders() -> None:
    tied = [(0.9, 1.0), (0.5, 1.0), (0.5, 0.0)]
    # Risks 0, then a half of a wrong one among two, then one among three.
    assert measured(tied).area.value == pytest.approx((0 + 1 / 4 + 1 / 3) / 3)
    assert accuracies(tied, 1 / 3, 2 / 3) == pytest.approx([1, 3 / 4])


def test_thresholds_are_the_lowest_confidences_answered() -> None:
    ten = [(place / 10, 1.0) for place in range(10)]
    points = measured(ten, shares=(1.0, 0.75, 0.7, 0.1)).points
    assert [point.threshold for point in points] == [0.0, 0.2, 0.3, 0.9]


@given(answers)
def test_ties_are_every_order(pairs: Answers) -> None:
    orders = [
        order
        for order in permutations(pairs)
        if all(one[0] >= other[0] for one, other in pairwise(order))
    ]
    expected = fmean(area_of([reward for _, reward in order]) for order in orders)
    assert measured(pairs).area.value == pytest.approx(expected)
    for count in range(1, len(pairs) + 1):
        right = fmean(fmean(reward for _, reward in order[:count]) for order in orders)
        assert accuracies(pairs, count / len(pairs)) == pytest.approx([right])


@given(answers)
def test_no_order_is_better_than_the_perfect_one(pairs: Answers) -> None:
    found = measured(pairs)
    assert found.perfect_area.value <= found.area.value + 1e-12
    assert found.perfect_area.value <= found.random_area.value + 1e-12
    assert found.perfect_area.value == pytest.approx(
        area_of(sorted((reward for _, reward in pairs), reverse=True))
    )
    assert found.random_area.value == pytest.approx(1 - fmean(reward for _, reward in pairs))
    assert found.gain.value == pytest.approx(found.random_area.value - found.area.value)
    assert accuracies(pairs, 1.0) == pytest.approx([fmean(reward for _, reward in pairs)])


@given(answers, st.randoms(use_true_random=False))
def test_nothing_but_the_order_of_confidences_matters(pairs: Answers, random: Any) -> None:
    shuffled = [(math.atan(confidence), reward) for confidence, reward in pairs]
    random.shuffle(shuffled)
    assert measured(shuffled).area.value == pytest.approx(measured(pairs).area.value)
    shares = (1.0, 0.6, 0.3)
    assert accuracies(shuffled, *shares) == pytest.approx(accuracies(pairs, *shares))


def test_the_interval_is_over_whole_prompts() -> None:
    # Of each prompt one right and one wrong answer: every draw of prompts says the same.
    pairs = [(confidence, confidence) for _ in range(30) for confidence in (0.0, 1.0)]
    prompts = [prompt for prompt in range(30) for _ in range(2)]
    found = measured(pairs, prompts=prompts, num_resamples=50)
    assert found.area.low == found.area.value == found.area.high
    apart = measured(pairs, num_resamples=200)
    assert apart.area.low < apart.area.value < apart.area.high
    assert apart.gain.low > 0
    assert measured(pairs, num_resamples=200) == apart


@pytest.mark.parametrize(
    ("given_ones", "field"),
    [
        ({"confidences": [], "rewards": []}, "rewards"),
        ({"confidences": [0.1], "rewards": [1.0, 0.0]}, "confidences"),
        ({"confidences": [math.nan], "rewards": [1.0]}, "confidences"),
        ({"confidences": [0.1], "rewards": [1.5]}, "rewards"),
        ({"confidences": [0.1], "rewards": [1.0], "shares": [0.0]}, "shares"),
        ({"confidences": [0.1], "rewards": [1.0], "prompts": [0, 1]}, "prompts"),
    ],
    ids=str,
)
def test_what_is_no_answer_is_refused(given_ones: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        risk_coverage(**given_ones)
    assert caught.value.field == field
