"""Combinations that are fitted to rewards of other prompts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.signals.fitted import RIDGE, cross_fitted, fit, transferred
from benchmarks.signals.records import Prompt
from benchmarks.signals.signals import ALL
from tests.unit.benchmarks.signals.drawn import prompt, sample

SIGNALS = tuple(signal for signal in ALL if signal.name in {"shortness", "question: paper"})


def test_the_weight_balances_gradient_and_penalty() -> None:
    (weight,) = fit(np.ones((3, 1)), np.array([1.0, 2.0, 1.0]))
    assert weight > 0
    assert 4 / (1 + np.exp(weight)) == pytest.approx(RIDGE * weight)


def test_a_signal_that_orders_weighs_more_than_one_that_does_not() -> None:
    orders, does_not = fit(np.array([[1.0, 1.0], [1.0, -1.0]]), np.ones(2))
    assert orders > 0
    assert does_not == pytest.approx(0)


def test_no_pairs_are_no_weights() -> None:
    assert fit(np.empty((0, 2)), np.empty(0)).tolist() == [0, 0]


def right_is(short: bool, *, log_odds: float = 0.0) -> Prompt:
    """A prompt of two samples, one of them right; the question prefers the second."""
    return prompt(
        sample(logprobs=(-1.0,), reward=float(short)),
        sample(logprobs=(-1.0,) * 5, reward=float(not short), log_odds={"paper": log_odds}),
    )


def test_a_prompt_has_no_say_in_its_own_combination() -> None:
    others = [right_is(short=True) for _ in range(19)]
    first, *_ = cross_fitted([right_is(short=True), *others], SIGNALS)
    turned, *_ = cross_fitted([right_is(short=False), *others], SIGNALS)
    assert first.tolist() == turned.tolist()
    assert first[0] > first[1]


def test_each_prompt_has_a_value_for_each_sample_however_few_there_are() -> None:
    found = cross_fitted([right_is(short=True), right_is(short=True)], SIGNALS)
    assert [values.shape for values in found] == [(2,), (2,)]


def test_what_other_models_taught_is_carried_over() -> None:
    taught = [right_is(short=False, log_odds=1.0) for _ in range(5)]
    (found,) = transferred([right_is(short=True, log_odds=1.0)], SIGNALS, taught)
    assert found[1] > found[0]
