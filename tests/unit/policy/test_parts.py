"""The small parts of a policy, against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.policy import (
    DOUBLING,
    Annealed,
    BatchSchedule,
    Checkpoint,
    Constant,
    PerSample,
    certain_winner,
    select_best,
)
from selfeval_backend.policy.stopping import is_confident, reached_limit
from selfeval_backend.types import Limits, RunState, Sample, SelfEvaluation, Usage


def evaluated(index: int, prob: float, *, raw: float | None = None, done: bool = True) -> Sample:
    """A sample of four tokens that was just evaluated."""
    evaluation = SelfEvaluation(
        num_tokens=4,
        final=done,
        prob_win_or_tie=prob,
        raw_prob_win_or_tie=prob if raw is None else raw,
        calibrated=raw is not None,
    )
    return Sample(
        index=index,
        temperature=1.0,
        seed=index,
        token_ids=(1, 2, 3, 4),
        status="finished" if done else "running",
        evaluations=(evaluation,),
    )


def test_annealing_is_greedy_first_and_nears_its_temperature() -> None:
    values = [Annealed(0.8).temperature(index) for index in range(4)]
    assert values == pytest.approx([0.0, 0.4, 0.6, 0.7])


def test_annealing_by_hand_keeps_its_last_value() -> None:
    assert [PerSample((0.0, 0.7)).temperature(i) for i in range(4)] == [0.0, 0.7, 0.7, 0.7]
    assert [Constant(0.3).temperature(i) for i in range(2)] == [0.3, 0.3]


@given(value=st.floats(0, 2), index=st.integers(0, 200))
def test_annealing_never_falls_and_never_passes_its_temperature(value: float, index: int) -> None:
    schedule = Annealed(value)
    assert 0 <= schedule.temperature(index) <= schedule.temperature(index + 1) <= value


@pytest.mark.parametrize(
    ("schedule", "max_samples", "expected"),
    [
        (DOUBLING, 16, [1, 2, 4, 8, 16]),
        (DOUBLING, 5, [1, 2, 4, 5]),
        (BatchSchedule((1, 4)), 16, [1, 4, 8, 16]),
        (BatchSchedule((3, 100)), 7, [3, 7]),
        (BatchSchedule.all_at_once(6), 6, [6]),
    ],
)
def test_batches_are_cumulative(
    schedule: BatchSchedule, max_samples: int, expected: list[int]
) -> None:
    targets, drawn = [], 0
    while drawn < max_samples:
        drawn = schedule.target(drawn, max_samples)
        targets.append(drawn)
    assert targets == expected


@given(
    cumulative=st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted),
    max_samples=st.integers(1, 60),
)
def test_batches_grow_up_to_the_maximum(cumulative: list[int], max_samples: int) -> None:
    schedule = BatchSchedule(tuple(cumulative))
    start = 0
    while start < max_samples:
        end = schedule.target(start, max_samples)
        assert start < end <= max_samples
        assert {schedule.batch_start(i, max_samples) for i in range(start, end)} == {start}
        start = end


@given(
    probs=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    keep=st.floats(0.01, 1),
)
def test_pruning_keeps_the_best_share_rounded_up(probs: list[float], keep: float) -> None:
    running = [evaluated(i, prob, done=False) for i, prob in enumerate(probs)]
    pruned = Checkpoint(at=4, keep_fraction=keep).to_prune(
        running, num_evaluated=len(running), must_keep_one=False
    )
    kept = [i for i in range(len(probs)) if i not in pruned]
    assert len(kept) == math.ceil(keep * len(probs) - 1e-9)
    assert all(probs[k] >= probs[p] for k in kept for p in pruned)
    assert list(pruned) == sorted(set(pruned))


@given(
    probs=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    below=st.floats(0, 1),
    must_keep_one=st.booleans(),
)
def test_absolute_pruning_keeps_one_only_where_it_must(
    probs: list[float], below: float, must_keep_one: bool
) -> None:
    running = [evaluated(i, prob, done=False) for i, prob in enumerate(probs)]
    checkpoint = Checkpoint(at=4, keep_fraction=1.0, prune_below=below)
    pruned = checkpoint.to_prune(running, num_evaluated=len(running), must_keep_one=must_keep_one)
    kept = [i for i in range(len(probs)) if i not in pruned]
    above = [i for i, prob in enumerate(probs) if prob >= below]
    best = max(range(len(probs)), key=lambda i: (probs[i], -i))
    assert kept == (above or ([best] if must_keep_one else []))


def test_pruning_twice_at_one_checkpoint_prunes_nothing_more() -> None:
    checkpoint = Checkpoint(at=4, keep_fraction=0.5)
    running = [evaluated(i, prob, done=False) for i, prob in enumerate((0.1, 0.9, 0.5, 0.6))]
    assert checkpoint.to_prune(running, num_evaluated=4, must_keep_one=False) == (0, 2)
    left = [running[1], running[3]]
    assert checkpoint.to_prune(left, num_evaluated=4, must_keep_one=False) == ()


def test_the_best_above_the_bound_is_accepted() -> None:
    checkpoint = Checkpoint(at=4, accept_above=0.8)
    running = [
        evaluated(0, 0.7, done=False),
        evaluated(1, 0.8, raw=0.6, done=False),
        evaluated(2, 0.8, raw=0.7, done=False),
        evaluated(3, 0.8, raw=0.7, done=False),
    ]
    assert checkpoint.to_accept(running) == 2
    assert checkpoint.to_accept(running[:1]) is None
    assert Checkpoint(at=4).to_accept(running) is None


def test_only_an_accepted_sample_that_finished_goes_before_the_best() -> None:
    samples = [evaluated(0, 0.3), evaluated(1, 0.9)]
    assert select_best(samples, accepted=0) is samples[0]
    assert select_best([evaluated(0, 0.3, done=False), samples[1]], accepted=0) is samples[1]


def test_a_winner_is_certain_once_no_other_can_win() -> None:
    def state(*samples: Sample, max_samples: int = 2, accepted: int | None = None) -> RunState:
        return RunState(limits=Limits(max_samples=max_samples), samples=samples, accepted=accepted)

    running, other = evaluated(0, 0.5, done=False), evaluated(1, 0.6, done=False)
    pruned = Sample(index=1, temperature=1.0, seed=1, status="pruned")
    assert certain_winner(state(running, max_samples=1)) == 0
    assert certain_winner(state(running)) is None, "another one may be drawn"
    assert certain_winner(state(running, other)) is None
    assert certain_winner(state(running, pruned)) == 0
    assert certain_winner(state(running, evaluated(1, 0.1))) is None, "another one has finished"
    assert certain_winner(state(running, other, accepted=1)) == 1
    assert certain_winner(state(running, evaluated(1, 0.1), accepted=1)) is None, "it is done"
    assert certain_winner(state()) is None


def test_selection_prefers_probability_then_raw_then_the_earlier() -> None:
    samples = [evaluated(0, 0.7), evaluated(1, 0.8, raw=0.6), evaluated(2, 0.8, raw=0.65)]
    twin = evaluated(3, 0.8, raw=0.65)
    unfinished = evaluated(4, 1.0, done=False)
    never = Sample(index=5, temperature=0.0, seed=0, status="finished")
    assert select_best([*samples, twin, unfinished, never]) is samples[2]
    assert select_best([never, samples[0]]) is samples[0]
    assert select_best([never]) is never
    assert select_best([unfinished]) is None


def test_selection_prefers_what_is_whole_where_training_held_nothing_else() -> None:
    whole, cut = evaluated(0, 0.1), replace(evaluated(1, 0.9), beyond_training=True)
    never = Sample(index=2, temperature=0.0, seed=0, status="finished")
    invalid = replace(evaluated(3, 0.95), valid=False)
    assert select_best([cut, whole]) is whole
    assert select_best([cut, never]) is never
    assert select_best([invalid, cut]) is cut
    assert select_best([cut]) is cut
    assert select_best([whole, cut], accepted=1) is cut, "it was accepted while it ran"


def test_a_sample_beyond_training_ends_no_run() -> None:
    cut = replace(evaluated(0, 0.99), beyond_training=True)
    state = RunState(limits=Limits(max_samples=4), samples=(cut,))
    assert not is_confident(state, 0.9)
    assert state.finished == (cut,) and state.usable == ()


def test_confidence_is_of_finished_samples_only_and_reaches_the_threshold() -> None:
    state = RunState(
        limits=Limits(max_samples=4), samples=(evaluated(0, 0.9), evaluated(1, 1.0, done=False))
    )
    assert is_confident(state, 0.9)
    assert not is_confident(state, 0.91)


def test_limits_are_reached_at_their_value() -> None:
    usage = Usage(prompt_tokens=5, generated_tokens=4, self_evaluation_tokens=1)
    limits = Limits(max_samples=4, max_total_tokens=10, max_seconds=2.0)
    assert reached_limit(RunState(limits=limits, usage=usage)) == "max_total_tokens"
    assert reached_limit(RunState(limits=limits, elapsed_s=2.0)) == "max_seconds"
    assert reached_limit(RunState(limits=limits, elapsed_s=1.9)) is None
    assert reached_limit(RunState(limits=Limits(max_samples=1), usage=usage)) is None
