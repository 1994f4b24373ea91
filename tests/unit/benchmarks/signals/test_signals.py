"""What can be known of a sample among its prompt's samples without training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.signals.records import Prompt
from benchmarks.signals.signals import (
    ALL,
    DISTRIBUTIONS,
    DRAWING,
    EVERY_ENGINE,
    equal_weights,
    standardised,
    worst_window,
)
from tests.unit.benchmarks.signals.drawn import prompt, sample

BY_NAME = {signal.name: signal for signal in ALL}

DRAWN = prompt(
    sample(
        answer="4",
        logprobs=(-0.5, -0.5),
        entropies=(0.2, 0.4),
        self_certainties=(3.0, 5.0),
        log_odds={"paper": 1.0, "p_true": -2.0},
    ),
    sample(answer="5", logprobs=(-0.25,), ended=False, log_odds={"paper": 3.0}),
    sample(answer="5", logprobs=(-0.1, -0.1, -1.0, -0.2), log_odds={"complete": 2.0}),
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("question: paper", [1, 3, 0]),
        ("question: p_true", [-2, 0, 0]),
        ("questions, mean of all", [-0.25, 0.75, 0.5]),
        ("log-probability, sum", [-1, -0.25, -1.4]),
        ("log-probability, mean", [-0.5, -0.25, -0.35]),
        ("shortness", [-2, -1, -4]),
        ("ended by itself", [1, 0, 1]),
        ("self-certainty", [4, 1, 1]),
        ("entropy, negative", [-0.3, -1, -1]),
        ("agreement", [1, 2, 2]),
        ("votes weighted by shortness", [0.5, 1.25, 1.25]),
        ("votes weighted by probability", [math.exp(-1), *[math.exp(-0.25) + math.exp(-1.4)] * 2]),
        ("votes weighted by question: p_true", [1 / (1 + math.exp(2)), 1, 1]),
    ],
)
def test_values_worked_out_by_hand(name: str, values: list[float]) -> None:
    assert BY_NAME[name].of(DRAWN) == pytest.approx(np.array(values))


def test_the_worst_window_is_of_eight_tokens_in_a_row() -> None:
    logprobs = np.array([-1.0, *[0.0] * 7, -2.0, -2.0, *[0.0] * 8])
    assert worst_window(logprobs) == pytest.approx(-4 / 8)
    assert worst_window(np.array([-1.0, -2.0])) == -1.5


def voting(*answers: str | None) -> Prompt:
    return prompt(*(sample(answer=answer) for answer in answers))


@pytest.mark.parametrize(
    ("answers", "by_two", "by_three"),
    [
        (("4", "5", "5"), "4", "4"),
        (("4", "5", "5", "5"), "5", "4"),
        (("4", "5", "5", "5", "5"), "5", "5"),
        (("4", "4", "5", "5", "5"), "4", "4"),
        ((None, "5", "5"), "5", None),
    ],
)
def test_the_greedy_answer_stands_until_it_is_outvoted(
    answers: tuple[str | None, ...], by_two: str | None, by_three: str | None
) -> None:
    for votes, expected in ((2, by_two), (3, by_three)):
        values = BY_NAME[f"greedy unless outvoted by {votes}"].of(voting(*answers))
        assert answers[int(np.argmax(values))] == expected


def test_equal_votes_go_to_the_greedy_answer() -> None:
    assert np.argmax(BY_NAME["agreement"].of(voting("4", "5"))) == 0


def test_standardised_has_mean_0_and_deviation_1() -> None:
    assert standardised(np.array([1.0, 3.0])).tolist() == [-1, 1]
    assert standardised(np.array([0.3, 0.3, 0.3])).tolist() == [0, 0, 0]


def test_equal_weights_add_what_is_standardised() -> None:
    both = equal_weights("both", (BY_NAME["agreement"], BY_NAME["shortness"]))
    drawn = prompt(
        sample(answer="4", logprobs=(-1.0,) * 30), sample(answer=None, logprobs=(-1.0,) * 10)
    )
    assert both.of(drawn).tolist() == [0, 0]
    assert both.needs == {"texts"}


def test_distributions_are_transformers_alone_and_no_default_rests_on_them() -> None:
    assert all("distributions" in signal.needs for signal in DISTRIBUTIONS)
    assert not any("distributions" in signal.needs for signal in EVERY_ENGINE)
    assert not any("labels" in signal.needs for signal in DRAWING)
    assert "distributions" in BY_NAME["votes weighted by self-certainty"].needs


def test_no_two_signals_have_one_name() -> None:
    assert len(BY_NAME) == len(ALL)
