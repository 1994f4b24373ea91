"""Statistics, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.evaluation.metrics import (
    MethodRun,
    PromptResult,
    estimate_saving,
    improvement_kept,
    report,
    standard_error,
    tokens_saved,
)
from selfeval_backend.types import Outcome, RunTrace, Sample, SampleStatus, Usage

shares = st.floats(0.0, 1.0)


def run(*results: tuple[float, int, int, int], seconds: float = 1.0) -> MethodRun:
    """Rewards, samples, generated tokens and self-evaluation tokens of each prompt."""
    return MethodRun(
        results=tuple(
            PromptResult(
                reward=reward,
                num_samples=num_samples,
                generated_tokens=generated,
                self_evaluation_tokens=evaluation,
            )
            for reward, num_samples, generated, evaluation in results
        ),
        seconds=seconds,
    )


def test_the_standard_error_of_four_rewards() -> None:
    # Mean 3/4; variance (3 * (1/4)^2 + (3/4)^2) / 3 = 1/4; 1/2 over the root of 4.
    assert standard_error([1.0, 0.0, 1.0, 1.0]) == pytest.approx(0.25)


def test_equal_rewards_have_no_error_and_one_reward_has_none_to_give() -> None:
    assert standard_error([1.0, 1.0, 1.0]) == 0.0
    assert standard_error([1.0]) is None


def test_half_of_the_improvement() -> None:
    assert improvement_kept(0.6, one_sample=0.4, best_of_n=0.8) == pytest.approx(0.5)
    assert improvement_kept(0.2, one_sample=0.4, best_of_n=0.8) == pytest.approx(-0.5)
    assert improvement_kept(0.9, one_sample=0.4, best_of_n=0.8) == pytest.approx(1.25)


def test_no_improvement_has_no_share() -> None:
    assert improvement_kept(0.4, one_sample=0.4, best_of_n=0.4) is None
    assert improvement_kept(0.5, one_sample=0.3, best_of_n=0.1 + 0.2) is None


@given(shares, shares)
def test_the_ends_of_the_improvement(one: float, best: float) -> None:
    if abs(best - one) > 1e-9:
        assert improvement_kept(one, one_sample=one, best_of_n=best) == 0.0
        assert improvement_kept(best, one_sample=one, best_of_n=best) == 1.0


def test_tokens_saved() -> None:
    assert tokens_saved(30, best_of_n=120) == pytest.approx(0.75)
    assert tokens_saved(120, best_of_n=120) == 0.0
    assert tokens_saved(150, best_of_n=120) == pytest.approx(-0.25)
    assert tokens_saved(0, best_of_n=0) is None


def test_a_report_worked_out_by_hand() -> None:
    one = run((0.0, 1, 10, 0), (1.0, 1, 20, 0), (0.0, 1, 30, 0), (0.0, 1, 20, 0))
    full = run((1.0, 4, 100, 20), (1.0, 4, 100, 20), (1.0, 4, 80, 20), (0.0, 4, 40, 20), seconds=9)
    mine = run((1.0, 1, 30, 10), (1.0, 2, 20, 10), (0.0, 4, 20, 20), (0.0, 4, 0, 10), seconds=2.5)

    rows = report({"one": one, "mine": mine, "full": full}, one_sample="one", best_of_n="full")

    assert [row.method for row in rows] == ["one", "mine", "full"]
    first, middle, last = rows
    assert (first.improvement_kept, last.improvement_kept) == (0.0, 1.0)
    assert (first.tokens_saved, last.tokens_saved) == (pytest.approx(1 - 80 / 400), 0.0)
    assert middle.accuracy == 0.5
    # Mean 1/2; variance 4 * (1/2)^2 / 3 = 1/3; the root of (1/3) / 4.
    assert middle.standard_error == pytest.approx((1 / 12) ** 0.5)
    assert middle.mean_samples == 2.75
    assert (middle.generated_tokens, middle.self_evaluation_tokens) == (70, 50)
    # (1/2 - 1/4) / (3/4 - 1/4), and 1 - (70 + 50) / (320 + 80).
    assert middle.improvement_kept == pytest.approx(0.5)
    assert middle.tokens_saved == pytest.approx(0.7)
    assert middle.seconds == 2.5


def outcome(samples: list[tuple[SampleStatus, int]], usage: Usage) -> Outcome:
    made = tuple(
        Sample(index=i, temperature=1.0, seed=0, status=status, num_generated_tokens=tokens)
        for i, (status, tokens) in enumerate(samples)
    )
    return Outcome(
        best=next(s.index for s in made if s.finished),
        samples=made,
        confidence=None,
        calibrated=False,
        stop_reason="confident",
        usage=usage,
        trace=RunTrace(events=(), samples=made, usage=usage),
    )


def test_what_a_call_saved_against_full_samples() -> None:
    usage = Usage(generated_tokens=70, self_evaluations=5, self_evaluation_tokens=50)
    call = outcome([("finished", 20), ("pruned", 10), ("finished", 40)], usage)

    saving = estimate_saving(call, max_samples=8)

    # The finished ones have 30 in the mean, and a self-evaluation costs 10.
    assert saving.tokens == 120
    assert saving.full_tokens == pytest.approx(8 * 40)
    assert saving.share == pytest.approx(1 - 120 / 320)


def test_a_call_that_never_evaluated_saves_what_it_did_not_draw() -> None:
    call = outcome([("finished", 20)], Usage(generated_tokens=20))

    assert estimate_saving(call, max_samples=1).share == 0.0
    assert estimate_saving(call, max_samples=4).share == pytest.approx(0.75)
