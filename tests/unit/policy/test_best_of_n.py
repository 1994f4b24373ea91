"""The whole policy, in a world of its own: no engine, no clock, any outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.policy import (
    BatchSchedule,
    BestOfN,
    Checkpoint,
    Constant,
    certain_winner,
    select_best,
)
from selfeval_backend.types import (
    Accept,
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
    samples, accepted = list(state.samples), state.accepted
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
        case Accept(sample=index):
            assert accepted is None, "accepted twice"
            assert samples[index].status == "running"
            accepted = index
    usage = Usage(generated_tokens=sum(len(sample.token_ids) for sample in samples))
    return replace(state, samples=tuple(samples), usage=usage, accepted=accepted)


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
                    prune_below=st.sampled_from((0.0, 0.5, 1.0)),
                    accept_above=st.none() | st.sampled_from((0.5, 0.9)),
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
    if state.accepted is not None:
        assert decisions[-1] == Stop(reason="accepted")
        return
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
    if state.accepted is not None and state.samples[state.accepted].finished:
        assert stop == Stop(reason="accepted")
        return
    if state.usage.total_tokens >= max_total_tokens:
        assert stop == Stop(reason="max_total_tokens")
    assert all(sample.evaluation is not None for sample in state.finished)


@given(policy=POLICIES, plans=PLANS, max_samples=st.integers(1, 12))
def test_an_accepted_sample_is_the_best_there_and_the_answer(
    policy: BestOfN, plans: list[Plan], max_samples: int
) -> None:
    state, decisions = play(policy, Limits(max_samples=max_samples), plans)
    if state.accepted is None:
        assert all(
            e.prob_win_or_tie < c.accept_above
            for s in state.samples
            for e in s.evaluations
            for c in policy.pruning
            if not e.final and e.num_tokens == c.at and c.accept_above is not None
        )
        return
    accepted = state.samples[state.accepted]
    assert select_best(state.samples, accepted=state.accepted) is accepted
    assert accepted.confidence is not None, "it still gets its final self-evaluation"
    place = decisions.index(Accept(sample=accepted.index))
    after = decisions[place + 1 :]
    assert not any(isinstance(decision, Draw) for decision in after)
    evaluated = [d.samples for d in after if isinstance(d, Evaluate)]
    assert evaluated == [(accepted.index,)]
    at = accepted.evaluations[-2].num_tokens
    bound = next(c.accept_above for c in policy.pruning if c.at == at)
    there = [
        e.prob_win_or_tie
        for s in state.samples
        for e in s.evaluations
        if e.num_tokens == at and not e.final
    ]
    assert bound is not None and bound <= max(there)
    assert accepted.evaluations[-2].prob_win_or_tie == max(there)
    assert not state.running


@given(policy=POLICIES, plans=PLANS, max_samples=st.integers(1, 12))
def test_a_winner_that_is_certain_is_chosen(
    policy: BestOfN, plans: list[Plan], max_samples: int
) -> None:
    state, certain = RunState(limits=Limits(max_samples=max_samples)), set[int]()
    while not isinstance(decision := policy.decide(state), Stop):
        state = carry_out(decision, state, plans)
        if (winner := certain_winner(state)) is not None:
            assert state.samples[winner].status == "running"
            certain.add(winner)
    best = select_best(state.samples, accepted=state.accepted)
    assert best is not None
    assert certain <= {best.index}


def test_an_accepted_sample_that_a_limit_stops_leaves_the_best_that_finished() -> None:
    policy = BestOfN(
        batches=BatchSchedule.all_at_once(2), pruning=(Checkpoint(at=4, accept_above=0.8),)
    )
    plans = [Plan(length=3, probs=(0.5,) * 5), Plan(length=20, probs=(0.9,) * 5)]
    state, decisions = play(policy, Limits(max_samples=2, max_total_tokens=23), plans)
    assert decisions[-1] == Stop(reason="accepted")

    cut = replace(
        state,
        samples=(
            replace(state.samples[0], evaluations=()),
            replace(state.samples[1], status="running", evaluations=()),
        ),
    )
    assert policy.decide(cut) == Evaluate(samples=(0,))
    cut = carry_out(Evaluate(samples=(0,)), cut, plans)
    assert policy.decide(cut) == Stop(reason="max_total_tokens")
    assert select_best(cut.samples, accepted=cut.accepted) is cut.samples[0]


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


def test_the_first_sample_may_be_accepted_in_the_first_round() -> None:
    policy = BestOfN(threshold=0.9, pruning=(Checkpoint(at=4, accept_above=0.8),))
    plans = [Plan(length=7, probs=(0.8, 0.8, 0.8, 0.8, 0.3))] * 4
    _, decisions = play(policy, Limits(max_samples=4), plans)
    assert decisions == [
        Draw(temperatures=(1.0,)),
        Advance(until=4),
        Evaluate(samples=(0,)),
        Accept(sample=0),
        Advance(until=None),
        Evaluate(samples=(0,)),
        Stop(reason="accepted"),
    ]


def test_a_fault_ends_the_run_at_once_and_time_that_is_up_names_itself() -> None:
    limits = Limits(max_samples=4, max_seconds=1.0)
    state = RunState(limits=limits, fault="gone", elapsed_s=0.5)
    assert BestOfN().decide(state) == Stop(reason="engine_error")
    assert BestOfN().decide(replace(state, elapsed_s=1.5)) == Stop(reason="max_seconds")
