"""What a ranking is worth, on tables worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.signals.figures import Figures, Mean, Ranking, figures, mean, rankings, verdict
from benchmarks.signals.records import Prompt
from selfeval_backend.evaluation.bootstrap import Estimate
from tests.unit.benchmarks.signals.drawn import prompt, sample


def of_rewards(*rewards: float) -> Prompt:
    return prompt(*(sample(reward=reward) for reward in rewards))


def worth(prompts: list[Prompt], *values: list[float]) -> Figures:
    ranking = Ranking(
        name="", every_engine=True, fitted="nothing", values=tuple(map(np.array, values))
    )
    return figures(ranking, prompts, seed=0)


PROMPTS = [of_rewards(0, 1, 0, 0), of_rewards(1, 0, 1, 1)]
"""One drawn sample is right 1/3 and 2/3 of the time; pairs of drawn ones: 2 and 2."""


def test_choice_is_compared_with_greedy_and_with_one_sample() -> None:
    found = worth(PROMPTS, [0, 3, 1, 2], [0, 1, 2, 3])
    assert found.accuracy.estimate.value == 1
    assert found.against_greedy.estimate.value == pytest.approx((1 + 0) / 2)
    assert found.against_one.estimate.value == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_pairs_are_of_drawn_samples_and_count_half_where_equal() -> None:
    # First prompt: above one, level with the other. Second: above one, below the other.
    found = worth(PROMPTS, [9, 2, 2, 1], [9, 1, 0, 2])
    assert found.pairs.n == 4
    assert found.pairs.estimate.value == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_the_greedy_sample_is_chosen_on_a_tie() -> None:
    found = worth(PROMPTS, [1, 1, 1, 1], [1, 1, 1, 1])
    assert found.against_greedy.estimate == Estimate(value=0, low=0, high=0)


def test_without_pairs_there_is_nothing_to_say_of_them() -> None:
    found = worth([of_rewards(1, 1, 1)], [1, 2, 3])
    assert math.isnan(found.pairs.estimate.value)
    assert found.pairs.n == 0


def test_the_standard_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = mean(values, seed=0)
    assert found.standard_error == pytest.approx(values.std() / 20, rel=0.1)
    assert found.estimate.low < values.mean() < found.estimate.high


def against_greedy(low: float, *, n: int = 300) -> Mean:
    return Mean(
        estimate=Estimate(value=low + 0.05, low=low, high=low + 0.1), standard_error=0.025, n=n
    )


@pytest.mark.parametrize(
    ("lows", "said"),
    [
        ((-0.005, 0.001, -0.009), "qualifies"),
        ((-0.005, 0.0, -0.009), "helps nowhere"),
        ((0.1, 0.1, -0.01), "may harm"),
        ((0.1, 0.1), "not refuted"),
        ((-0.02, 0.1), "may harm"),
    ],
)
def test_the_rule(lows: tuple[float, ...], said: str) -> None:
    assert verdict([against_greedy(low) for low in lows]) == said


def test_a_model_of_few_prompts_speaks_neither_for_a_signal_nor_against_it() -> None:
    enough = [against_greedy(0.1), against_greedy(0.1)]
    assert verdict([*enough, against_greedy(0.1, n=150)]) == "qualifies"
    assert verdict([*enough, against_greedy(0.1, n=149)]) == "not refuted"
    assert verdict([*enough, against_greedy(-0.1, n=149)]) == "not refuted"


def test_what_is_fitted_elsewhere_needs_another_model() -> None:
    alone = rankings({"a": PROMPTS})
    both = rankings({"a": PROMPTS, "b": PROMPTS})
    assert {r.fitted for r in alone["a"]} == {"nothing", "this model"}
    assert {r.fitted for r in both["a"]} == {"nothing", "this model", "other models"}
    assert [r.name for r in both["a"]] == [r.name for r in both["b"]]
