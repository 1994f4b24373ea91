"""A replay is what the controller would have done, and costs what it would have cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.controller import run
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.replaying import replay_methods, replay_prompt
from selfeval_backend.evaluation.rivals import (
    AdaptiveConsistency,
    DeepConfidence,
    EarlyStoppingConsistency,
    MajorityVote,
    MeanLogprob,
    RandomChoice,
    Rival,
    SelfCertainty,
    UntrainedQuestion,
)
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.samples.records import Recording, SampleRecord
from selfeval_backend.samples.replay import replay_engine
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import Settings
from selfeval_backend.types import Decision, Limits, Outcome, RunState
from tests.unit.samples.recorded import (
    ANNEALED,
    CHECKPOINTS,
    NUM_SAMPLES,
    QUESTION,
    drawn_samples,
    info,
    recording,
    sample,
)

RIVALS: tuple[Rival, ...] = (
    AdaptiveConsistency(),
    DeepConfidence(warmup=2, window=2, stride=2, last_checkpoint=6),
    EarlyStoppingConsistency(window=2),
    MajorityVote(),
    RandomChoice(),
)


class ShortQuestion(ScriptedChat):
    """A question of as many tokens as the recordings say."""

    def follow_up_ids(self, text: str, *, closes_thought: bool = True) -> tuple[int, ...]:
        return super().follow_up_ids(text, closes_thought=closes_thought)[:QUESTION]


def live(
    samples: Sequence[SampleRecord],
    policy: Policy,
    limits: Limits,
    *,
    annealed: bool,
    config: SelfEvalConfig,
) -> Outcome:
    """Run the real loop over a replay engine."""
    chosen = [
        s for s in samples if s.temperature == (ANNEALED.temperature(s.index) if annealed else 1.0)
    ][:NUM_SAMPLES]
    prompt_ids = (1, 2, 3, 4)
    engine = replay_engine({prompt_ids: chosen})
    return asyncio.run(
        run(
            prompt_ids,
            engine=engine,
            evaluator=SelfEvaluator(config, ShortQuestion()),
            policy=policy,
            limits=limits,
            sampling=SamplingParams(
                temperature=1.0, max_tokens=100, seed=0, stop_token_ids=frozenset()
            ),
        )
    )


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    prune_at = tuple(draw(st.sets(st.sampled_from(CHECKPOINTS), max_size=3).map(sorted)))
    return Settings(
        max_samples=draw(st.integers(1, NUM_SAMPLES)),
        adaptive=draw(st.booleans()),
        threshold=draw(st.integers(0, 100)) / 100,
        batches=draw(st.sampled_from((None, (1, 3), (2,)))),
        annealing=draw(st.sampled_from(("annealed", "constant"))),
        prune_at=prune_at,
        keep_fraction=draw(st.sampled_from((0.25, 0.5, 1.0))),
        prune_below=draw(st.sampled_from((0.0, 0.5))),
        accept_above=draw(st.sampled_from((None, 0.6, 0.9))),
    )


def compare(
    samples: Sequence[SampleRecord],
    policy: Policy,
    limits: Limits,
    *,
    annealed: bool,
    trained_on_cut_off: bool = False,
) -> None:
    config = SelfEvalConfig(trained_on_cut_off=trained_on_cut_off)
    recorded = replace(recording(samples), info=info(selfeval=config))
    replayed = replay_prompt(recorded.prompts[0], recorded, limits).run(policy)
    outcome = live(samples, policy, limits, annealed=annealed, config=config)
    assert replayed.state.samples == outcome.samples
    assert replayed.state.usage == outcome.usage
    assert replayed.best == outcome.best_sample
    assert replayed.stop_reason == outcome.stop_reason


@given(drawn_samples(), settings(), st.booleans())
def test_a_replay_is_what_the_controller_does(
    samples: list[SampleRecord], chosen: Settings, trained: bool
) -> None:
    compare(
        samples,
        chosen.policy(),
        chosen.limits(),
        annealed=chosen.adaptive and chosen.annealing == "annealed",
        trained_on_cut_off=trained,
    )


def test_a_replay_chooses_whole_samples_first() -> None:
    cut = sample(0, [0.9] * 3, finish_reason="length")
    blank = replace(sample(1, [0.8] * 3, token=100), text="")
    whole = sample(2, [0.1] * 3, token=200)
    limits = Limits(max_samples=3)
    for trained, best in ((False, 2), (True, 0)):
        config = SelfEvalConfig(trained_on_cut_off=trained)
        recorded = replace(recording([cut, blank, whole]), info=info(selfeval=config))
        replayed = replay_prompt(recorded.prompts[0], recorded, limits)
        assert replayed.run(BestOfN()).best.index == best


def test_an_accepted_sample_is_replayed_as_the_controller_runs_it() -> None:
    samples = [
        sample(index, probs, token=100 * (index + 1))
        for index, probs in enumerate(([0.9] * 3, [0.3] * 8, [0.4, 0.7, *[0.1] * 6], [0.95] * 7))
    ]
    chosen = Settings(
        max_samples=3, adaptive=False, prune_at=(2, 4), keep_fraction=1.0, accept_above=(1.0, 0.1)
    )
    compare(samples, chosen.policy(), chosen.limits(), annealed=False)
    recorded = recording(samples)
    replayed = replay_prompt(recorded.prompts[0], recorded, chosen.limits()).run(chosen.policy())
    assert (replayed.best.index, replayed.stop_reason) == (1, "accepted")
    assert [s.status for s in replayed.state.samples] == ["finished", "finished", "pruned"]


@given(drawn_samples(), st.sampled_from(RIVALS), st.booleans())
def test_a_rival_is_replayed_as_the_controller_runs_it(
    samples: list[SampleRecord], rival: Rival, annealed: bool
) -> None:
    chosen = Settings(max_samples=NUM_SAMPLES, annealing="annealed" if annealed else "constant")
    by_key = {(s.index, s.temperature): s for s in samples}
    policy = rival.policy(chosen.policy(), lambda s: by_key[s.index, s.temperature])
    compare(samples, policy, chosen.limits(), annealed=annealed)


@given(st.lists(drawn_samples(), min_size=1, max_size=2), st.lists(settings(), max_size=6))
def test_policies_that_share_states_end_as_they_would_alone(
    prompts: list[list[SampleRecord]], chosen: list[Settings]
) -> None:
    recorded = recording(*prompts)
    methods = [Method(name=str(place), settings=s) for place, s in enumerate(chosen)]

    together = list(replay_methods(recorded, methods))
    alone = [[r for (r,) in replay_methods(recorded, [method])] for method in methods]

    assert together == [[column[p] for column in alone] for p in range(len(prompts))]


@given(drawn_samples(), settings(), st.lists(st.integers(0, 100), max_size=8))
def test_thresholds_that_are_followed_together_end_as_they_would_alone(
    samples: list[SampleRecord], chosen: Settings, percents: list[int]
) -> None:
    recorded = recording(samples)
    methods = [
        Method(name=str(i), settings=replace(chosen, threshold=percent / 100))
        for i, percent in enumerate(percents)
    ]

    (together,) = replay_methods(recorded, methods)
    alone = [result for m in methods for (result,) in replay_methods(recorded, [m])]

    assert together == alone


class Asked(BestOfN):
    """Counts how often it is asked."""

    __slots__ = ()
    times = 0

    def decide(self, state: RunState) -> Decision:
        Asked.times += 1
        return super().decide(state)


def test_of_many_thresholds_few_are_asked() -> None:
    samples = [sample(i, [0.1 * i + 0.2] * 4, token=100 * i) for i in range(NUM_SAMPLES)]
    recorded = recording(samples)
    prompt = replay_prompt(recorded.prompts[0], recorded, Limits(max_samples=NUM_SAMPLES))
    policies = [Asked(threshold=i / 1000, evaluate=True) for i in range(1000)]

    ends = prompt.run_together(policies)

    alone = [BestOfN(threshold=p.threshold) for p in policies]
    assert [(e.state, e.stop_reason) for e in ends] == [
        (e.state, e.stop_reason) for e in map(prompt.run, alone)
    ]
    assert len({e.stop_reason for e in ends}) == 2
    assert Asked.times < 100


def three() -> Recording:
    return recording(
        [
            sample(index, [0.5] * 4, reward=float(index == 1), token=100 * index)
            for index in range(NUM_SAMPLES)
        ]
    )


def constant(**fields: object) -> Settings:
    return Settings(annealing="constant", **fields)  # type: ignore[arg-type]  # of one test


def test_rotations_are_the_mean_over_first_samples() -> None:
    one = Method(
        name="one",
        settings=constant(max_samples=1, adaptive=False),
        evaluate=False,
        rotations=NUM_SAMPLES,
    )

    ((result,),) = replay_methods(three(), [one])

    assert result.reward == pytest.approx(1 / NUM_SAMPLES)
    assert (result.num_samples, result.generated_tokens) == (1.0, 5.0)
    assert result.self_evaluation_tokens == 0.0


def test_what_was_not_recorded_is_named() -> None:
    for settings_, message in (
        (constant(temperature=0.7), "sample 0 was asked for at temperature 0.7; recorded at: 1"),
        (constant(max_samples=9, threshold=1.0), "sample 6 was asked for, and 6 were recorded"),
        (constant(prune_at=(3,)), r"no self-evaluation was recorded at 3 tokens; recorded: \[2, 4"),
    ):
        with pytest.raises(DatasetError, match=rf"prompt 'p0'.*{message}"):
            list(replay_methods(three(), [Method(name="x", settings=settings_)]))


@pytest.mark.parametrize("limit", ["max_total_tokens", "max_seconds"])
def test_a_limit_that_a_replay_cannot_keep_is_refused(limit: str) -> None:
    with pytest.raises(ConfigurationError, match=limit):
        list(replay_methods(three(), [Method(name="x", settings=constant(**{limit: 5}))]))


@pytest.mark.parametrize(
    ("rival", "lacks"),
    [
        (SelfCertainty(), "self_certainty"),
        (MeanLogprob(), "sum_logprob"),
        (UntrainedQuestion(), "untrained_logprobs"),
        (DeepConfidence(), "token_confidences"),
    ],
)
def test_what_the_recording_lacks_for_a_rival_is_named(rival: Rival, lacks: str) -> None:
    bare = [replace(sample(i, [0.5], answer="a"), **{lacks: None}) for i in range(NUM_SAMPLES)]
    method = Method(name="x", settings=constant(max_samples=NUM_SAMPLES), rival=rival)
    with pytest.raises(DatasetError, match=f"no {lacks}: record it"):
        list(replay_methods(recording(bare), [method]))
