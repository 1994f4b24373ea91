"""Figures of a self-evaluation, against values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.evaluation.quality import (
    Columns,
    Figure,
    Prediction,
    auroc,
    brier_score,
    expected_calibration_error,
    pair_accuracy,
)


def said(prompt: int, logit: float, prob: float, target: float, reward: float) -> Prediction:
    return Prediction(
        prompt=prompt, logit=logit, prob_win_or_tie=prob, target=target, reward=reward
    )


def test_pair_accuracy_compares_within_a_prompt_and_counts_ties_half() -> None:
    items = [
        said(0, 2.0, 0.9, 1.0, 1.0),
        said(0, 1.0, 0.7, 0.5, 0.0),  # lower than the right one: a pair right
        said(0, 2.0, 0.9, 0.5, 0.0),  # equal to it: half
        said(1, -5.0, 0.0, 1.0, 1.0),  # the only sample of its prompt: no pair
    ]
    assert pair_accuracy(items) == pytest.approx(1.5 / 2)


def test_calibration_error_is_the_gap_of_means_by_bin() -> None:
    items = [
        said(0, 0, 0.1, 0.0, 0.0),
        said(1, 0, 0.1, 0.4, 0.0),  # this bin: said 0.1, true 0.2
        said(2, 0, 0.9, 1.0, 1.0),
        said(3, 0, 0.9, 0.6, 1.0),  # this bin: said 0.9, true 0.8
    ]
    assert expected_calibration_error(items) == pytest.approx(0.1)
    assert brier_score(items) == pytest.approx((0.01 + 0.09 + 0.01 + 0.09) / 4)


def test_the_interval_holds_the_value_and_draws_whole_prompts() -> None:
    items = [said(p, p % 2 - 0.5, 0.5, 0.5, r) for p in range(40) for r in (0.0, 1.0)]
    estimate = pair_accuracy.estimate(items, seed=0, num_resamples=50)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low <= estimate.value <= estimate.high
    # Logits are equal within every prompt, so every resample of whole prompts gives one half.
    assert estimate.low == estimate.high == pytest.approx(0.5)


def test_auroc_counts_a_soft_target_as_part_of_both() -> None:
    def area(*pairs: tuple[float, float]) -> float:
        return auroc([said(0, logit, 0.5, target, 0.0) for logit, target in pairs])

    assert area((0.0, 0.0), (1.0, 1.0)) == 1.0
    assert area((0.0, 1.0), (1.0, 0.0)) == 0.0
    assert area((1.0, 1.0), (1.0, 0.0)) == 0.5
    # Positives: half of the lower and all of the higher; negatives: half of the lower.
    assert area((0.0, 0.5), (1.0, 1.0)) == pytest.approx((0.5 * 0.5 + 1.0) / 1.5)


FIGURES = (pair_accuracy, auroc, expected_calibration_error, brier_score)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.sampled_from((-1.0, 0.0, 2.0)), st.sampled_from((0.0, 1.0))
        ),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_a_prompt_that_counts_twice_is_two_prompts_of_the_same_samples(
    samples: list[tuple[int, float, float]], counts: list[int]
) -> None:
    items = [
        said(prompt, logit, 1 / (1 + math.exp(-logit)), (reward + 1) / 2, reward)
        for prompt, logit, reward in samples
    ]
    prompts = sorted({p.prompt for p in items})
    weights = np.array([counts[prompt] for prompt in prompts])
    repeated = [
        replace(item, prompt=10 * prompt + copy)
        for prompt in prompts
        for copy in range(counts[prompt])
        for item in items
        if item.prompt == prompt
    ]
    if not repeated:
        return
    for figure in FIGURES:
        weighted = figure.of_weighted(Columns.of(items), weights)
        assert weighted == pytest.approx(figure(repeated), nan_ok=True)


@pytest.mark.parametrize("figure", FIGURES[:2])
def test_nothing_to_compare_is_no_number(figure: Figure) -> None:
    estimate = figure.estimate([said(0, 1.0, 0.7, 1.0, 1.0)], seed=0)
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
