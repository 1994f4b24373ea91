"""The gate's decisions, as pure functions."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.errors import (
    ConfigurationError,
    GateError,
    LowConfidenceError,
    MissingConfidenceError,
    UncalibratedConfidenceError,
)
from selfeval_backend.gate import (
    FINAL_ACTIONS,
    ConfidenceReading,
    GatePolicy,
    GateRecord,
    PersonReply,
    best_attempt,
    current_run,
    decide,
    last_run,
    raise_gate_error,
    read_confidence,
    read_reply,
    record_reply,
    retry_settings,
    total_usage,
)
from selfeval_backend.settings import Settings
from selfeval_backend.types import Usage


def calibrated(confidence: float) -> ConfidenceReading:
    return ConfidenceReading(confidence=confidence, calibrated=True)


MISSING = ConfidenceReading(confidence=None, problem="the answer carries no best_of_n")
UNCALIBRATED = ConfidenceReading(confidence=0.99)


def run(policy: GatePolicy, readings: list[ConfidenceReading]) -> tuple[GateRecord, ...]:
    """Return the records of a run that sees these readings, one after another."""
    records: tuple[GateRecord, ...] = ()
    for reading in readings:
        records += (decide(policy, reading, records),)
        if records[-1].final:
            break
    return records


def actions(policy: GatePolicy, readings: list[ConfidenceReading]) -> list[str]:
    return [record.action for record in run(policy, readings)]


# What is decided.


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("confidence", [0.99, None])
def test_an_answer_that_is_not_valid_is_low_whatever_it_says(
    calibrated: bool, confidence: float | None
) -> None:
    said = {"confidence": confidence, "calibrated": calibrated, "valid": False}
    policy = GatePolicy(
        threshold=0.5, on_low=("retry", "refuse"), on_missing="accept", on_uncalibrated="accept"
    )
    records = run(policy, [read_confidence(said), read_confidence(said)])
    assert [(r.verdict, r.action) for r in records] == [("low", "retry"), ("low", "refuse")]
    assert "not valid" in records[-1].reason
    assert GateRecord.from_json(records[-1].to_json()) == records[-1]
    trusting = GatePolicy(threshold=0.5, num_stronger=1, trust_stronger=True, on_low="escalate")
    assert run(trusting, [read_confidence(said)] * 2)[-1].verdict == "low"


@pytest.mark.parametrize("valid", [None, True])
def test_an_answer_without_a_form_is_judged_by_its_confidence(valid: bool | None) -> None:
    said = {"confidence": 0.99, "calibrated": True, "valid": valid}
    assert actions(GatePolicy(threshold=0.8), [read_confidence(said)]) == ["accept"]


def test_of_answers_that_did_not_pass_a_valid_one_is_given_out() -> None:
    invalid = read_confidence({"confidence": 0.99, "calibrated": True, "valid": False})
    records = run(GatePolicy(threshold=0.8, on_low=("retry", "accept")), [calibrated(0.3), invalid])
    assert best_attempt(records) == 0


@pytest.mark.parametrize(("confidence", "action"), [(0.8, "accept"), (0.79, "raise")])
def test_the_threshold_itself_passes(confidence: float, action: str) -> None:
    policy = GatePolicy(threshold=0.8, on_low="raise")
    assert actions(policy, [calibrated(confidence)]) == [action]


def test_a_chain_is_walked_from_left_to_right() -> None:
    policy = GatePolicy(
        threshold=0.8, on_low=("retry", "escalate", "interrupt"), max_retries=2, num_stronger=1
    )
    low = [calibrated(0.1)] * 9
    assert actions(policy, low) == ["retry", "retry", "escalate", "interrupt"]
    assert [record.level for record in run(policy, low)] == [0, 0, 0, 1]
    assert actions(policy, [*low[:2], calibrated(0.9)]) == ["retry", "retry", "accept"]


def test_every_stronger_model_is_asked_once() -> None:
    policy = GatePolicy(threshold=0.8, on_low=("escalate", "refuse"), num_stronger=3)
    low = [calibrated(0.1)] * 9
    assert actions(policy, low) == ["escalate"] * 3 + ["refuse"]
    assert [record.level for record in run(policy, low)] == [0, 1, 2, 3]


def test_a_chain_without_an_end_raises() -> None:
    low = [calibrated(0.1)] * 9
    assert actions(GatePolicy(threshold=0.8), low) == ["retry", "raise"]
    assert actions(GatePolicy(threshold=0.8, on_low="retry", max_retries=2), low) == [
        "retry",
        "retry",
        "raise",
    ]


def test_a_missing_confidence_is_a_policy_of_its_own() -> None:
    assert actions(GatePolicy(threshold=0.0), [MISSING]) == ["raise"]
    assert actions(GatePolicy(threshold=0.0, on_missing="accept"), [MISSING]) == ["accept"]
    policy = GatePolicy(threshold=0.5, on_missing=("retry", "refuse"))
    assert actions(policy, [MISSING, calibrated(0.6)]) == ["retry", "accept"]
    assert actions(policy, [MISSING, MISSING]) == ["retry", "refuse"]


def test_so_is_one_that_is_not_calibrated() -> None:
    assert actions(GatePolicy(threshold=0.0), [UNCALIBRATED]) == ["raise"]
    policy = GatePolicy(threshold=0.5, on_uncalibrated="refuse")
    assert actions(policy, [UNCALIBRATED]) == ["refuse"]
    policy = GatePolicy(threshold=0.5, on_uncalibrated="compare", on_low="refuse")
    assert actions(policy, [UNCALIBRATED]) == ["accept"]
    assert actions(policy, [ConfidenceReading(confidence=0.4)]) == ["refuse"]
    assert "not calibrated" in run(policy, [UNCALIBRATED])[0].reason


def test_a_stronger_model_of_another_kind_passes_only_if_it_is_trusted() -> None:
    readings = [calibrated(0.1), MISSING]
    policy = GatePolicy(threshold=0.5, on_low="escalate", num_stronger=1)
    assert actions(policy, readings) == ["escalate", "raise"]
    trusting = GatePolicy(threshold=0.5, on_low="escalate", num_stronger=1, trust_stronger=True)
    assert actions(trusting, readings) == ["escalate", "accept"]
    assert run(trusting, readings)[-1].verdict == "trusted"
    assert actions(trusting, [MISSING]) == ["raise"]


def test_verdicts_that_change_keep_their_places() -> None:
    policy = GatePolicy(
        threshold=0.5,
        on_low=("escalate", "refuse"),
        on_missing=("escalate", "interrupt"),
        num_stronger=1,
    )
    assert actions(policy, [calibrated(0.1), MISSING]) == ["escalate", "interrupt"]
    assert actions(policy, [MISSING, calibrated(0.1)]) == ["escalate", "refuse"]


STEPS = st.sampled_from(["retry", "escalate"])
CHAINS = st.builds(
    lambda steps, end: (*steps, *end),
    st.lists(STEPS, max_size=3),
    st.lists(st.sampled_from(sorted(FINAL_ACTIONS)), max_size=1),
).filter(bool)
POLICIES = st.builds(
    GatePolicy,
    threshold=st.floats(0, 1),
    on_low=CHAINS,
    on_missing=CHAINS,
    on_uncalibrated=st.one_of(CHAINS, st.just("compare")),
    max_retries=st.integers(1, 3),
    num_stronger=st.integers(1, 2),
    trust_stronger=st.booleans(),
)
READINGS = st.builds(
    ConfidenceReading,
    confidence=st.one_of(st.none(), st.floats(0, 1)),
    calibrated=st.booleans(),
)
USAGES = st.one_of(
    st.none(),
    st.builds(
        Usage,
        **{field.name: st.integers(0, 99) for field in fields(Usage)},
    ),
)


@given(policy=POLICIES, readings=st.lists(READINGS, min_size=60, max_size=60))
def test_every_run_ends_and_only_a_reason_lets_an_answer_through(
    policy: GatePolicy, readings: list[ConfidenceReading]
) -> None:
    records = run(policy, readings)
    bound = sum(len(policy.chain(v)) for v in ("low", "missing", "uncalibrated"))  # type: ignore[arg-type]  # literals
    assert records[-1].final and len(records) <= bound
    assert [record.attempt for record in records] == list(range(len(records)))
    for record, reading in zip(records, readings, strict=False):
        assert 0 <= record.level <= policy.num_stronger
        assert record.action in policy.chain(record.verdict)
        passes = reading.confidence is not None and reading.confidence >= policy.threshold
        usable = reading.calibrated or policy.compares_uncalibrated
        assert (record.verdict == "passed") == (passes and usable)
        if record.action == "accept" and record.verdict not in ("passed", "trusted"):
            assert "accept" in policy.chain(record.verdict)
        if record.verdict == "trusted":
            assert policy.trust_stronger and record.level > 0 and reading.confidence is None


@given(policy=POLICIES, reading=READINGS, more=st.floats(0, 1))
def test_more_confidence_never_does_worse(
    policy: GatePolicy, reading: ConfidenceReading, more: float
) -> None:
    if reading.confidence is None or decide(policy, reading).verdict != "passed":
        return
    surer = ConfidenceReading(
        confidence=max(more, reading.confidence), calibrated=reading.calibrated
    )
    assert decide(policy, surer).verdict == "passed"


@given(policy=POLICIES, readings=st.lists(READINGS, min_size=60, max_size=60))
def test_the_best_attempt_is_the_one_that_passed_or_the_strongest_models_surest(
    policy: GatePolicy, readings: list[ConfidenceReading]
) -> None:
    records = run(policy, readings)
    best = records[best_attempt(records)]
    assert best.level == records[-1].level
    if records[-1].verdict in ("passed", "trusted"):
        assert best == records[-1]
    elif best.confidence is None:
        assert all(r.confidence is None for r in records if r.level == best.level)
    else:
        rivals = [r.confidence or 0.0 for r in records if r.level == best.level]
        assert best.confidence == max(rivals)


@given(
    policy=POLICIES,
    attempts=st.lists(st.tuples(READINGS, USAGES), min_size=60, max_size=60),
)
def test_every_token_of_every_attempt_is_in_the_records(
    policy: GatePolicy, attempts: list[tuple[ConfidenceReading, Usage | None]]
) -> None:
    records: tuple[GateRecord, ...] = ()
    paid = Usage()
    for reading, usage in attempts:
        records += (decide(policy, reading, records, usage=usage),)
        paid += usage or Usage()
        if records[-1].final:
            break
    assert total_usage(records) == paid
    texts = json.loads(json.dumps([record.to_json() for record in records]))
    assert tuple(GateRecord.from_json(body) for body in texts) == records


def test_runs_are_told_apart() -> None:
    policy = GatePolicy(threshold=0.5, on_low=("retry", "refuse"))
    first = run(policy, [calibrated(0.1), calibrated(0.2)])
    begun = run(policy, [calibrated(0.1)])
    assert current_run(first) == ()
    assert last_run(first) == first
    assert current_run((*first, *begun)) == begun == last_run((*first, *begun))
    assert last_run((*begun, *begun[:0])) == begun
    assert current_run(()) == last_run(()) == ()


# Settings of a retry.


def test_a_retry_draws_more_and_anew_and_until_the_gate_would_pass() -> None:
    reading = read_confidence(
        {
            "confidence": 0.6,
            "calibrated": True,
            "policy": {"max_samples": 4, "threshold": 0.5, "seed": 7},
        }
    )
    assert retry_settings(GatePolicy(threshold=0.8), reading) == {
        "max_samples": 8,
        "threshold": 0.8,
        "seed": 8,
    }
    policy = GatePolicy(threshold=0.3, retry_samples=64)
    assert retry_settings(policy, reading) == {"max_samples": 64, "threshold": 0.5, "seed": 8}


def test_a_retry_draws_no_greedy_sample_a_second_time() -> None:
    drawn = {"max_samples": 4, "adaptive": True, "annealing": "annealed", "temperature": 0.8}
    policy = GatePolicy(threshold=0.8)
    settings = retry_settings(policy, read_confidence({"confidence": 0.1, "policy": drawn}))
    assert settings["annealing"][:3] == pytest.approx((0.4, 0.6, 0.7))
    assert settings["annealing"][-1] == pytest.approx(0.8, rel=0.01)
    Settings(**settings)
    again = {**drawn, **settings, "annealing": list(settings["annealing"])}
    once_more = retry_settings(policy, read_confidence({"confidence": 0.1, "policy": again}))
    assert once_more["annealing"] == settings["annealing"]
    for kept in ({"annealing": "constant"}, {"adaptive": False}):
        reading = read_confidence({"confidence": 0.1, "policy": {**drawn, **kept}})
        assert "annealing" not in retry_settings(policy, reading)


@pytest.mark.parametrize(
    "best_of_n", [None, {}, {"policy": None}, {"policy": {"max_samples": "4"}}]
)
def test_a_model_of_another_kind_is_asked_again_as_it_is(best_of_n: object) -> None:
    assert retry_settings(GatePolicy(threshold=0.8), read_confidence(best_of_n)) == {}


# Readings.


@pytest.mark.parametrize(
    ("best_of_n", "problem"),
    [
        (None, "no best_of_n"),
        ("0.9", "str"),
        ({}, "no confidence"),
        ({"confidence": None}, "it does not say why"),
        ({"confidence": None, "no_confidence": "the run ended (max_seconds)"}, "max_seconds"),
        ({"confidence": "high"}, "'high'"),
        ({"confidence": True}, "True"),
        ({"confidence": float("nan")}, "nan"),
        ({"confidence": 1.5}, "1.5"),
    ],
    ids=str,
)
def test_what_is_no_probability_is_missing(best_of_n: object, problem: str) -> None:
    reading = read_confidence(best_of_n)
    assert reading.confidence is None
    assert reading.problem is not None and problem in reading.problem


@pytest.mark.parametrize(
    ("flag", "expected"), [(True, True), (False, False), (None, False), ("yes", False)]
)
def test_only_what_says_that_it_is_calibrated_is(flag: object, expected: bool) -> None:
    assert read_confidence({"confidence": 1, "calibrated": flag}).calibrated is expected


# Settings of the gate.


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
        ({"on_low": "pass"}, "on_low"),
        ({"on_low": ()}, "on_low"),
        ({"on_low": 3}, "on_low"),
        ({"on_low": ("refuse", "retry")}, "on_low"),
        ({"on_low": "escalate"}, "on_low"),
        ({"on_low": "compare"}, "on_low"),
        ({"on_missing": None}, "on_missing"),
        ({"on_missing": "compare"}, "on_missing"),
        ({"on_uncalibrated": ("compare", "retry")}, "on_uncalibrated"),
        ({"max_retries": 0}, "max_retries"),
        ({"max_retries": 1.0}, "max_retries"),
        ({"retry_samples": 0}, "retry_samples"),
        ({"num_stronger": -1}, "num_stronger"),
        ({"trust_stronger": "yes"}, "trust_stronger"),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatePolicy(**{"threshold": 0.5, **values})
    assert caught.value.field == field


# Errors.


@pytest.mark.parametrize(
    ("reading", "error", "remedy"),
    [
        (calibrated(0.1), LowConfidenceError, "on_low"),
        (MISSING, MissingConfidenceError, "on_missing"),
        (UNCALIBRATED, UncalibratedConfidenceError, "on_uncalibrated"),
    ],
)
def test_each_error_says_why_and_what_to_do(
    reading: ConfidenceReading, error: type[GateError], remedy: str
) -> None:
    records = run(GatePolicy(threshold=0.5, on_low="raise"), [reading])
    with pytest.raises(error, match=remedy) as caught:
        raise_gate_error(records)
    assert caught.value.records == records
    assert caught.value.reason in str(caught.value)


def test_an_error_counts_the_attempts() -> None:
    records = run(GatePolicy(threshold=0.5), [calibrated(0.1), calibrated(0.2)])
    with pytest.raises(LowConfidenceError, match=r"in 2 attempts: confidence 0\.200 is below"):
        raise_gate_error(records)


# People.


@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("approve", PersonReply(type="approve")),
        ({"type": "approve"}, PersonReply(type="approve")),
        ({"type": "edit", "content": "41"}, PersonReply(type="edit", content="41")),
        ("reject", PersonReply(type="reject")),
        ({"type": "reject", "content": "no"}, PersonReply(type="reject", content="no")),
    ],
    ids=str,
)
def test_replies_are_read(value: object, reply: PersonReply) -> None:
    assert read_reply(value) == reply


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "yes",
        {},
        {"type": "edit"},
        {"type": "edit", "content": " "},
        {"type": "edit", "content": 3},
        {"type": "approve", "content": "x"},
        {"type": "reject", "message": "x"},
    ],
    ids=str,
)
def test_what_is_no_reply_is_said_to_be_none(value: object) -> None:
    assert isinstance(read_reply(value), str)


def test_a_reply_is_recorded_about_the_attempt_that_was_shown() -> None:
    policy = GatePolicy(threshold=0.9, on_low=("retry", "interrupt"))
    asked = run(policy, [calibrated(0.6), calibrated(0.2)])
    assert asked[-1].action == "interrupt"
    approved = record_reply(asked, PersonReply(type="approve"))
    assert (approved.action, approved.attempt, approved.confidence) == ("accept", 0, 0.6)
    assert best_attempt((*asked, approved)) == 0
    rejected = record_reply(asked, PersonReply(type="reject"))
    assert rejected.action == "refuse"
    edited = record_reply(asked, PersonReply(type="edit", content="41"))
    assert (edited.action, edited.confidence) == ("accept", None)
