"""The whole policy, in a world of its own: no engine, no clock, any outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.policy import BatchSchedule, BestOfN, Checkpoint, Constant
from selfeval_backend.types import (
    Advance,
    Decision,
    Draw,
    Evaluate,
    Limits,
    Prune,
    RunState,
    Sample,
    SelfEvaluation,
    Stop,
    Usage,
)


@dataclass(frozen=True)
class Plan:
    """What a sample will be."""

    length: int
    probs: tuple[float, ...]
    """At each of four checkpoints, and at the end."""

    def prob(self, sample: Sample) -> float:
        """What it says of itself as it stands."""
        return self.probs[-1 if sample.finished else len(sample.token_ids) // 4 - 1]


def advance(sample: Sample, plan: Plan, until: int | None) -> Sample:
    if until is not None and plan.length >= until:
        return replace(sample, token_ids=tuple(range(until)))
    return replace(
        sample,
        token_ids=tuple(range(plan.length)),
        status="finished",
        finish_reason="stop",
    )


def evaluate(sample: Sample, plan: Plan) -> Sample:
    evaluation = SelfEvaluation(
        num_tokens=len(sample.token_ids),
        final=sample.finished,
        prob_win_or_tie=plan.prob(sample),
        raw_prob_win_or_tie=plan.prob(sample),
        calibrated=False,
    )
    return replace(sample, evaluations=(*sample.evaluations, evaluation))


def carry_out(decision: Decision, state: RunState, plans: list[Plan]) -> RunState:
    samples = list(state.samples)
    match decision:
        case Draw(temperatures=temperatures):
            samples += [
                Sample(index=len(samples) + i, temperature=t, seed=0)
                for i, t in enumerate(temperatures)
            ]
        case Advance(until=until):
            for sample in state.running:
                samples[sample.index] = advance(sample, plans[sample.index], until)
        case Evaluate(samples=indices):
            assert indices, "an evaluation of nothing"
            for i in indices:
                assert samples[i].evaluation is None, "evaluated twice as it stands"
                samples[i] = evaluate(samples[i], plans[i])
        case Prune(samples=indices):
            assert indices, "a pruning of nothing"
            for i in indices:
                assert samples[i].status == "running"
                samples[i] = replace(samples[i], status="pruned")
    usage = Usage(generated_tokens=sum(len(sample.token_ids) for sample in samples))
    return replace(state, samples=tuple(samples), usage=usage)


def play(policy: BestOfN, limits: Limits, plans: list[Plan]) -> tuple[RunState, list[Decision]]:
    state, decisions = RunState(limits=limits), list[Decision]()
    for _ in range(1000):
        decision = policy.decide(state)
        assert policy.decide(replace(state)) == decision, "the same state, another decision"
        decisions.append(decision)
        if isinstance(decision, Stop):
            return state, decisions
        state = carry_out(decision, state, plans)
    raise AssertionError("the policy does not end")


PROBS = st.floats(0, 1, allow_nan=False)
PLANS = st.lists(
    st.builds(Plan, length=st.integers(0, 20), probs=st.tuples(*[PROBS] * 5)),
    min_size=12,
    max_size=12,
)
POLICIES = st.builds(
    BestOfN,
    batches=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True).map(
        lambda counts: BatchSchedule(tuple(sorted(counts)))
    ),
    temperatures=st.just(Constant(1.0)),
    threshold=st.none() | PROBS,
    pruning=st.lists(st.sampled_from((4, 8, 12, 16)), unique=True, max_size=4).flatmap(
        lambda ats: st.tuples(
            *(
                st.builds(
                    Checkpoint,
                    at=st.just(at),
                    keep_fraction=st.floats(0.05, 1),
                    min_prob_win_or_tie=st.sampled_from((0.0, 0.5, 1.0)),
                )
                for at in sorted(ats)
            )
        )
    ),
)


@given(policy=POLICIES, plans=PLANS, max_samples=st.integers(1, 12))
def test_every_run_ends_with_a_finished_sample_and_within_its_samples(
    policy: BestOfN, plans: list[Plan], max_samples: int
) -> None:
    state, decisions = play(policy, Limits(max_samples=max_samples), plans)
    assert 1 <= len(state.samples) <= max_samples
    assert state.finished and not state.running
    assert all(sample.evaluation is not None for sample in state.finished)
    assert decisions[-1] == (
        Stop(reason="confident")
        if policy.threshold is not None
        and any((s.confidence or 0.0) >= policy.threshold for s in state.finished)
        else Stop(reason="max_samples")
    )


@given(
    policy=POLICIES,
    plans=PLANS,
    max_total_tokens=st.integers(1, 100),
)
def test_a_limit_on_tokens_ends_any_run(
    policy: BestOfN, plans: list[Plan], max_total_tokens: int
) -> None:
    limits = Limits(max_samples=12, max_total_tokens=max_total_tokens)
    state, decisions = play(policy, limits, plans)
    stop = decisions[-1]
    if state.usage.total_tokens >= max_total_tokens:
        assert stop == Stop(reason="max_total_tokens")
    assert all(sample.evaluation is not None for sample in state.finished)


@given(plans=PLANS, keep=st.floats(0.05, 1), max_samples=st.integers(1, 12))
def test_pruning_keeps_its_share_of_what_was_evaluated_there(
    plans: list[Plan], keep: float, max_samples: int
) -> None:
    policy = BestOfN(
        batches=BatchSchedule.all_at_once(max_samples),
        pruning=(Checkpoint(at=8, keep_fraction=keep),),
    )
    state, _ = play(policy, Limits(max_samples=max_samples), plans)
    reached = [i for i in range(max_samples) if plans[i].length >= 8]
    pruned = [s.index for s in state.samples if s.status == "pruned"]
    assert len(reached) - len(pruned) == math.ceil(keep * len(reached) - 1e-9)
    assert set(pruned) <= set(reached)


def test_plain_best_of_n_draws_once_and_evaluates_once() -> None:
    plans = [Plan(length=3, probs=(0.5,) * 5)] * 4
    policy = BestOfN(batches=BatchSchedule.all_at_once(4))
    _, decisions = play(policy, Limits(max_samples=4), plans)
    assert decisions == [
        Draw(temperatures=(1.0,) * 4),
        Advance(until=None),
        Evaluate(samples=(0, 1, 2, 3)),
        Stop(reason="max_samples"),
    ]


def test_a_fault_ends_the_run_at_once_and_time_that_is_up_names_itself() -> None:
    limits = Limits(max_samples=4, max_seconds=1.0)
    state = RunState(limits=limits, fault="gone", elapsed_s=0.5)
    assert BestOfN().decide(state) == Stop(reason="engine_error")
    assert BestOfN().decide(replace(state, elapsed_s=1.5)) == Stop(reason="max_seconds")
