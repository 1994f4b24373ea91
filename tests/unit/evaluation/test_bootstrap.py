"""One bootstrap: what it draws, what it leaves out, and that there is no second one."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap, interval, resamples
from selfeval_backend.evaluation.quality import Prediction, brier_score
from selfeval_backend.evaluation.tasks.length_control import (
    length_controlled_estimate,
    length_controlled_win_rate,
)
from tests.meta.source import ROOT

VALUES = np.random.default_rng(0).normal(2.0, 1.0, size=200)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    found = bootstrap(lambda weights: float(weights @ VALUES / weights.sum()), 200, seed=0)

    error = VALUES.std(ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(VALUES.mean())
    assert found.low == pytest.approx(VALUES.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(VALUES.mean() + 1.96 * error, abs=0.2 * error)


def test_each_resample_has_as_many_prompts_and_the_same_seed_the_same_ones() -> None:
    drawn = resamples(7, seed=3, num_resamples=50)

    assert drawn.shape == (50, 7)
    assert (drawn.sum(1) == 7).all()
    assert (drawn == np.round(drawn)).all()
    resamples.cache_clear()
    assert (resamples(7, seed=3, num_resamples=50) == drawn).all()
    assert (resamples(7, seed=4, num_resamples=50) != drawn).any()
    with pytest.raises(ValueError, match="read-only"):
        drawn[0, 0] = 1.0


def test_resamples_that_say_nothing_are_left_out() -> None:
    assert interval(1.0, np.array([1.0, np.nan, 1.0, np.inf])) == Estimate(value=1, low=1, high=1)
    nothing = interval(1.0, np.array([np.nan]))
    assert math.isnan(nothing.low)
    assert math.isnan(nothing.high)
    nowhere = bootstrap(lambda _: math.nan, 3, seed=0)
    assert math.isnan(nowhere.value)


def test_figures_of_one_seed_are_of_the_same_resamples() -> None:
    items = [
        Prediction(prompt=place, logit=0.0, prob_win_or_tie=0.0, target=float(value), reward=0.0)
        for place, value in enumerate(VALUES)
    ]

    squares = bootstrap(lambda weights: float(weights @ VALUES**2 / weights.sum()), 200, seed=5)

    found = brier_score.estimate(items, seed=5)
    for name in ("value", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(squares, name))


def test_prompts_are_drawn_whole_with_their_lengths() -> None:
    preferences = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    lengths, others = np.array([9.0, 2, 7, 8, 3, 5]), np.array([4.0, 4, 4, 4, 4, 4])

    found = length_controlled_estimate(preferences, lengths, others, seed=0, num_resamples=20)

    drawn = [
        length_controlled_win_rate(
            *(np.repeat(values, counts.astype(int)) for values in (preferences, lengths, others))
        )
        for counts in resamples(6, seed=0, num_resamples=20)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_no_other_module_draws_intervals_of_its_own() -> None:
    own = ROOT / "selfeval_backend" / "evaluation" / "bootstrap.py"
    sources = [
        path
        for folder in ("selfeval_backend", "aic_integrations", "reference_model", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    drawing = [
        path
        for path in sources
        if re.search(r"quantile\(.*0\.975|\.multinomial\(", path.read_text(encoding="utf-8"))
    ]
    assert drawing == [own]
