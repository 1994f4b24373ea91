"""The values of a run."""

from __future__ import annotations

import json
from dataclasses import astuple, fields

import pytest

from selfeval_backend.types import (
    Advance,
    Decision,
    Draw,
    Evaluate,
    Limits,
    Outcome,
    Prune,
    RunState,
    RunTrace,
    Sample,
    SampleStatus,
    SelfEvaluation,
    Stop,
    TraceEvent,
    Usage,
    to_json,
)


def evaluation(num_tokens: int, *, final: bool) -> SelfEvaluation:
    return SelfEvaluation(
        num_tokens=num_tokens,
        final=final,
        prob_win_or_tie=0.7,
        raw_prob_win_or_tie=0.6,
        calibrated=True,
    )


def sample(status: SampleStatus, *evaluations: SelfEvaluation, index: int = 0) -> Sample:
    return Sample(
        index=index,
        temperature=1.0,
        seed=1,
        token_ids=(1, 2, 3),
        num_generated_tokens=4,
        status=status,
        finish_reason="stop" if status == "finished" else None,
        evaluations=evaluations,
    )


def test_a_sum_of_usages_leaves_nothing_out() -> None:
    ones = Usage(**{field.name: 1 for field in fields(Usage)})
    assert set(astuple(ones + ones)) == {2}


def test_an_evaluation_counts_only_for_the_sample_as_it_stands() -> None:
    assert sample("running").evaluation is None
    assert sample("running", evaluation(2, final=False)).evaluation is None
    assert sample("running", evaluation(3, final=False)).evaluation is not None
    assert sample("finished", evaluation(3, final=False)).evaluation is None
    assert sample("finished", evaluation(3, final=True)).confidence == 0.7
    assert sample("running", evaluation(3, final=False)).confidence is None


def test_what_went_into_the_model_and_what_of_it_was_cached() -> None:
    usage = Usage(
        prompt_tokens=100,
        cached_prompt_tokens=40,
        generated_tokens=30,
        resent_tokens=20,
        cached_resent_tokens=15,
        self_evaluations=2,
        self_evaluation_tokens=8,
        cached_self_evaluation_tokens=50,
    )
    assert usage.input_tokens == 100 + 20 + 8 + 50
    assert usage.cached_input_tokens == 40 + 15 + 50


def test_usage_adds_field_by_field() -> None:
    one = Usage(prompt_tokens=3, cached_prompt_tokens=2, generated_tokens=5, pruned_tokens=1)
    two = Usage(generated_tokens=1, self_evaluations=1, self_evaluation_tokens=4)
    total = one + two + Usage(cached_self_evaluation_tokens=9)
    assert total == Usage(
        prompt_tokens=3,
        cached_prompt_tokens=2,
        generated_tokens=6,
        pruned_tokens=1,
        self_evaluations=1,
        self_evaluation_tokens=4,
        cached_self_evaluation_tokens=9,
    )
    assert total.total_tokens == 3 + 6 + 4


def test_a_state_sorts_its_samples() -> None:
    state = RunState(
        limits=Limits(max_samples=3),
        samples=(sample("running"), sample("finished", index=1), sample("pruned", index=2)),
    )
    assert [s.index for s in state.running] == [0]
    assert [s.index for s in state.finished] == [1]


def outcome() -> Outcome:
    samples = (
        sample("finished", evaluation(3, final=True)),
        sample("finished", index=1),
        sample("pruned", evaluation(3, final=False), index=2),
        sample("aborted", index=3),
        sample("running", index=4),
    )
    event = TraceEvent(
        decision=Draw(temperatures=(0.0, 1.0)),
        elapsed_s=0.1,
        usage=Usage(),
        num_running=2,
        num_finished=0,
    )
    return Outcome(
        best=0,
        samples=samples,
        confidence=0.7,
        calibrated=True,
        stop_reason="confident",
        usage=Usage(prompt_tokens=3),
        trace=RunTrace(events=(event,), samples=samples, usage=Usage(prompt_tokens=3)),
    )


def test_every_sample_has_a_fate() -> None:
    fates = [outcome().fate(index) for index in range(5)]
    assert fates == ["chosen", "finished", "pruned", "aborted", "aborted"]
    assert outcome().best_sample is not None
    tokens = outcome().generated_tokens_by_fate()
    assert tokens == {"chosen": 4, "discarded": 4, "pruned": 4, "aborted": 8}


def test_an_outcome_goes_through_json() -> None:
    value = to_json(outcome())
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["trace"]["events"][0]["decision"] == {"type": "draw", "temperatures": [0.0, 1.0]}
    assert value["samples"][2]["evaluations"][0]["prob_win_or_tie"] == 0.7


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (Advance(until=None), {"type": "advance", "until": None}),
        (Evaluate(samples=(0, 2)), {"type": "evaluate", "samples": [0, 2]}),
        (Prune(samples=(1,)), {"type": "prune", "samples": [1]}),
        (Stop(reason="confident"), {"type": "stop", "reason": "confident"}),
    ],
)
def test_a_decision_says_its_name(decision: Decision, expected: dict[str, object]) -> None:
    assert to_json(decision) == expected


def test_plain_values_stay() -> None:
    assert to_json({"a": (1, {"b": None})}) == {"a": [1, {"b": None}]}
