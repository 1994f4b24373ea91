"""The loop, over scripted engines: what it decides, what it pays for, and that it tidies up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfeval_backend import controller
from selfeval_backend.chat import Message
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.engine.generator_stream import GeneratorStream
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, ScriptedResponse
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineConnectionError,
    EngineError,
    NoFinishedSampleError,
    SelfEvaluationError,
)
from selfeval_backend.gate import read_confidence
from selfeval_backend.model import Answer, SelfEvaluatingModel, UncalibratedWarning
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.samples.replay import replay_engine
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.types import Decision, Outcome, TraceEvent, to_json
from tests.conftest import ModelFactory

QUESTION = [Message(role="user", content="Use 3, 19 and 25 to make 41.")]
CHAT = ScriptedChat()
PROMPT = CHAT.prompt_ids(QUESTION)
NUM_PROMPT = len(PROMPT)


def respond(text: str, prob: float | dict[int, float] = 0.5) -> ScriptedResponse:
    return CHAT.response(text, prob)


def engine_of(model: SelfEvaluatingModel) -> ScriptedEngine:
    assert isinstance(model.engine, ScriptedEngine)
    return model.engine


async def ask(model: SelfEvaluatingModel, **given: object) -> Answer:
    answer = await model.answer(QUESTION, model.settings(given))
    if isinstance(model.engine, ScriptedEngine):
        assert model.engine.num_open == 0
    return answer


def decisions(outcome: Outcome) -> list[Decision]:
    return [event.decision for event in outcome.trace.events]


def steps(outcome: Outcome) -> list[str]:
    return [type(decision).__name__ for decision in decisions(outcome)]


def fates(outcome: Outcome) -> list[str]:
    return [outcome.fate(sample.index) for sample in outcome.samples]


def check_usage(outcome: Outcome) -> None:
    """What was paid for adds up, sample by sample and over the trace."""
    usage, samples = outcome.usage, outcome.samples
    assert usage.generated_tokens == sum(s.num_generated_tokens for s in samples)
    assert usage.pruned_tokens == sum(
        s.num_generated_tokens for s in samples if s.status == "pruned"
    )
    assert usage.self_evaluations == sum(len(s.evaluations) for s in samples)
    assert usage.prompt_tokens == NUM_PROMPT * sum(s.num_generated_tokens > 0 for s in samples)
    totals = [event.usage.total_tokens for event in outcome.trace.events]
    assert totals == sorted(totals) and totals[-1] == usage.total_tokens


# Plain, adaptive, pruned.


async def test_plain_best_of_n_takes_the_most_confident(make_model: ModelFactory) -> None:
    model = make_model([respond("aa", 0.3), respond("bbbb", 0.8), respond("cc", 0.6)])
    answer = await ask(model, max_samples=3, adaptive=False, temperature=0.7)
    outcome = answer.outcome
    assert answer.text == "bbbb"
    assert outcome.confidence == pytest.approx(0.8)
    assert outcome.calibrated
    assert outcome.stop_reason == "max_samples"
    assert fates(outcome) == ["finished", "chosen", "finished"]
    assert steps(outcome) == ["Draw", "Advance", "Evaluate", "Stop"]
    assert [s.temperature for s in outcome.samples] == [0.7] * 3


async def test_usage_counts_everything_once(make_model: ModelFactory) -> None:
    model = make_model([respond("aa"), respond("bbbb"), respond("cc")])
    usage = (await ask(model, max_samples=3, adaptive=False)).outcome.usage
    num_question = len(model.evaluator.question_ids)
    assert usage.prompt_tokens == 3 * NUM_PROMPT
    assert usage.cached_prompt_tokens == 2 * NUM_PROMPT
    assert usage.generated_tokens == 2 + 4 + 2 + 3  # an end token each
    assert usage.self_evaluations == 3
    assert usage.self_evaluation_tokens == 3 * num_question
    assert usage.cached_self_evaluation_tokens == 3 * NUM_PROMPT + 8
    assert usage.total_tokens == 3 * NUM_PROMPT + 11 + 3 * num_question


async def test_adaptive_stops_at_the_first_confident_batch(make_model: ModelFactory) -> None:
    model = make_model([respond("a", 0.2), respond("b", 0.95), respond("c", 0.99)])
    outcome = (await ask(model, max_samples=16, threshold=0.9)).outcome
    assert outcome.stop_reason == "confident"
    assert outcome.best == 1
    assert [s.temperature for s in outcome.samples] == [0.0, 0.5]


async def test_adaptive_draws_in_cumulative_batches(make_model: ModelFactory) -> None:
    model = make_model([respond("a", 0.2)] * 8)
    events: list[TraceEvent] = []
    chosen = model.settings({"max_samples": 7, "batches": (1, 3)})
    answer = await model.answer(QUESTION, chosen, on_progress=events.append)
    assert tuple(events) == answer.outcome.trace.events
    running = [e.num_running for e in events if type(e.decision).__name__ == "Draw"]
    assert running == [1, 2, 3, 1]


async def test_pruning_stops_the_worst_at_once(make_model: ModelFactory) -> None:
    model = make_model(
        [
            respond("aaaaaaaa", {4: 0.1, 8: 0.9}),
            respond("bbbbbbbb", {4: 0.6, 8: 0.5}),
            respond("cc", {2: 0.3}),
            respond("dddddddd", {4: 0.7, 8: 0.6}),
        ]
    )
    outcome = (
        await ask(model, max_samples=4, adaptive=False, prune_at=(4,), keep_fraction=0.5)
    ).outcome
    assert fates(outcome) == ["pruned", "finished", "finished", "chosen"]
    assert outcome.samples[0].num_generated_tokens == 4
    assert outcome.usage.pruned_tokens == 4
    assert steps(outcome) == ["Draw", "Advance", "Evaluate", "Prune", "Advance", "Evaluate", "Stop"]
    check_usage(outcome)


async def test_absolute_pruning_may_stop_a_whole_batch(make_model: ModelFactory) -> None:
    model = make_model([respond("aaaaa", {4: 0.1, 5: 0.9}), respond("bbbbb", {4: 0.2, 5: 0.3})])
    given = {"prune_at": (4,), "keep_fraction": 1.0, "prune_below": 0.5, "max_samples": 2}
    outcome = (await ask(model, **given)).outcome
    assert fates(outcome) == ["pruned", "chosen"]  # the last one stays: nothing else is left
    assert outcome.stop_reason == "max_samples"


async def test_several_checkpoints_each_with_its_share(make_model: ModelFactory) -> None:
    probs = [0.1, 0.2, 0.3, 0.4]
    model = make_model([respond(f"{i}xxxxxx", prob) for i, prob in enumerate(probs)])
    outcome = (
        await ask(model, max_samples=4, adaptive=False, prune_at=(2, 4), keep_fraction=(0.75, 0.34))
    ).outcome
    assert [s.num_generated_tokens for s in outcome.samples] == [2, 4, 8, 8]
    check_usage(outcome)


async def test_an_accepted_sample_ends_the_others_and_is_the_answer(
    make_model: ModelFactory,
) -> None:
    model = make_model(
        [
            respond("aaaaaaaa", {4: 0.5, 8: 0.99}),
            respond("bbbbbbbb", {4: 0.9, 8: 0.4}),
            respond("cc", {2: 0.99}),
        ]
    )
    given = {"max_samples": 3, "adaptive": False, "prune_at": (4,), "accept_above": 0.85}
    outcome = (await ask(model, **given)).outcome
    assert steps(outcome) == [
        *("Draw", "Advance", "Evaluate", "Accept", "Prune", "Advance", "Evaluate", "Stop")
    ]
    assert outcome.stop_reason == "accepted"
    assert fates(outcome) == ["pruned", "chosen", "finished"]
    assert outcome.confidence == pytest.approx(0.4), "what it says of itself at its end"
    check_usage(outcome)


async def test_an_accepted_sample_that_fails_leaves_the_best_that_finished(
    make_model: ModelFactory,
) -> None:
    failing = replace(respond("bbbbbbbb", {4: 0.9}), fail_after=6)
    model = make_model([respond("aa", 0.3), failing])
    given = {"max_samples": 2, "prune_at": (4,), "accept_above": 0.85}
    outcome = (await ask(model, **given)).outcome
    assert outcome.stop_reason == "engine_error"
    assert fates(outcome) == ["chosen", "aborted"]
    assert outcome.confidence == pytest.approx(0.3)


async def test_to_accept_without_a_checkpoint_is_refused(make_model: ModelFactory) -> None:
    with pytest.raises(ConfigurationError, match=r"accept_above.*prune_at"):
        await ask(make_model([respond("a")]), accept_above=0.9)
    tuned = make_model([respond("a", 0.95)], policy={"prune_at": [4]})
    await ask(tuned, accept_above=0.9)


# Limits.


async def test_a_token_limit_gives_the_best_that_finished(make_model: ModelFactory) -> None:
    model = make_model([respond("aa", 0.2), respond("b" * 50, 0.9)], chunk_tokens=1)
    first = NUM_PROMPT + 3 + len(model.evaluator.question_ids)
    outcome = (await ask(model, max_total_tokens=first + NUM_PROMPT + 10)).outcome
    assert outcome.stop_reason == "max_total_tokens"
    assert fates(outcome) == ["chosen", "aborted"]
    assert outcome.usage.total_tokens == first + NUM_PROMPT + 10
    assert outcome.confidence == pytest.approx(0.2)


async def test_a_time_limit_gives_the_best_that_finished(make_model: ModelFactory) -> None:
    slow = replace(respond("bbbbbbbb"), delay_s=30.0)
    model = make_model([respond("aa", 0.2), slow])
    outcome = (await ask(model, max_seconds=0.2)).outcome
    assert outcome.stop_reason == "max_seconds"
    assert fates(outcome) == ["chosen", "aborted"]


async def test_a_limit_before_any_sample_finished_carries_the_trace(
    make_model: ModelFactory,
) -> None:
    model = make_model([respond("a" * 50)], chunk_tokens=1)
    with pytest.raises(NoFinishedSampleError, match="max_total_tokens") as caught:
        await ask(model, max_total_tokens=NUM_PROMPT + 20)
    assert caught.value.trace.usage.generated_tokens == 20
    assert caught.value.trace.samples[0].status == "aborted"
    assert engine_of(model).num_open == 0


async def test_a_self_evaluation_that_outlasts_the_time_is_missed(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_EVALUATION_GRACE_S", 0.05)
    model = make_model([respond("aa")], evaluation_delay_s=30.0)
    outcome = (await ask(model, max_seconds=0.05)).outcome
    assert outcome.stop_reason == "max_seconds"
    assert outcome.confidence is None
    assert not outcome.calibrated
    assert outcome.trace.fault is not None and "outlasted" in outcome.trace.fault


# Faults and cancellation.


async def test_a_fault_gives_the_best_that_finished(make_model: ModelFactory) -> None:
    failing = replace(
        respond("bbbbbbbb"), fail_after=3, error=EngineConnectionError("the line dropped")
    )
    model = make_model([respond("aa", 0.2), failing])
    outcome = (await ask(model, max_samples=4)).outcome
    assert outcome.stop_reason == "engine_error"
    assert outcome.trace.fault == "the line dropped"
    assert fates(outcome) == ["chosen", "aborted"]
    assert outcome.samples[1].num_generated_tokens == 3
    check_usage(outcome)


async def test_a_fault_before_any_sample_finished_carries_the_trace(
    make_model: ModelFactory,
) -> None:
    model = make_model([replace(respond("bbbbbbbb"), fail_after=3)])
    with pytest.raises(NoFinishedSampleError, match="engine_error") as caught:
        await ask(model)
    assert isinstance(caught.value.__cause__, EngineError)
    assert caught.value.trace.usage.generated_tokens == 3
    assert caught.value.trace.fault
    assert engine_of(model).num_open == 0


async def test_a_fault_of_one_self_evaluation_leaves_the_others(make_model: ModelFactory) -> None:
    def unreadable(num_tokens: int) -> tuple[float, float]:
        raise EngineError("not now")

    first = replace(respond("aa"), label_logprobs=unreadable)
    model = make_model([first, respond("bb", 0.3), respond("cc", 0.6)], evaluation_delay_s=0.01)
    outcome = (await ask(model, max_samples=3, adaptive=False)).outcome
    assert outcome.stop_reason == "engine_error"
    assert outcome.best == 2
    assert outcome.usage.self_evaluations == 2


async def test_unreadable_labels_are_a_fault(make_model: ModelFactory) -> None:
    model = make_model([replace(respond("aa"), label_logprobs=(float("nan"), 0.0))])
    outcome = (await ask(model)).outcome
    assert outcome.stop_reason == "engine_error"
    assert outcome.confidence is None


async def test_cancelling_leaves_nothing_running(make_model: ModelFactory) -> None:
    model = make_model([replace(respond("a" * 9), delay_s=0.01)] * 4, chunk_tokens=1)
    task = asyncio.create_task(ask(model, max_samples=4, adaptive=False))
    while engine_of(model).num_running < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine_of(model).num_open == 0


async def test_cancelling_a_self_evaluation_leaves_nothing_open(make_model: ModelFactory) -> None:
    model = make_model([respond("aa")], evaluation_delay_s=30.0)
    task = asyncio.create_task(ask(model))
    while not engine_of(model).evaluation_calls:
        await asyncio.sleep(0)
    assert engine_of(model).num_open == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine_of(model).num_open == 0


async def test_an_observer_that_fails_leaves_nothing_open(make_model: ModelFactory) -> None:
    def fail(event: TraceEvent) -> None:
        if event.num_finished:
            raise RuntimeError("no")

    model = make_model([respond("aa")] * 4)
    with pytest.raises(RuntimeError, match="no"):
        await model.answer(QUESTION, model.settings({"adaptive": False}), on_progress=fail)
    assert engine_of(model).num_open == 0


async def test_an_engine_that_is_closed_ends_the_run(make_model: ModelFactory) -> None:
    model = make_model([replace(respond("aaaa"), delay_s=0.01)], chunk_tokens=1)
    task = asyncio.create_task(ask(model))
    while not engine_of(model).num_open:
        await asyncio.sleep(0)
    await model.aclose()
    with pytest.raises(NoFinishedSampleError, match="closed"):
        await task


# Bad input: refused before any token.


@pytest.mark.parametrize(
    ("keywords", "given", "error", "match"),
    [
        ({"evaluates_mid_generation": False}, {"prune_at": (4,)}, ConfigurationError, "prune_at"),
        ({"context_length": 60}, {"max_tokens": 50}, ContextLengthError, "max_tokens"),
        ({"context_length": 60}, {}, ContextLengthError, "Shorten the prompt"),
    ],
)
async def test_what_does_not_fit_is_refused_before_any_token(
    make_model: ModelFactory,
    keywords: dict[str, object],
    given: dict[str, object],
    error: type[Exception],
    match: str,
) -> None:
    model = make_model([respond("aa")], **keywords)
    with pytest.raises(error, match=match):
        await ask(model, **given)
    assert engine_of(model).stream_calls == []


async def test_an_empty_prompt_is_refused_before_any_token(make_model: ModelFactory) -> None:
    model = make_model([respond("aa")])
    with pytest.raises(ConfigurationError, match="content"):
        await model.answer([Message(role="user", content="  ")])
    assert engine_of(model).stream_calls == []


def test_labels_that_begin_alike_are_refused(chat: ScriptedChat) -> None:
    config = SelfEvalConfig(win_or_tie_label="No.", loss_label="Never.")
    with pytest.raises(SelfEvaluationError, match="same token"):
        SelfEvaluatingModel(name="x", engine=ScriptedEngine([]), chat=chat, config=config)


# Engines that differ decide alike.

SCRIPT = [
    respond("aaaaaaaa", {4: 0.1, 6: 0.2, 8: 0.9}),
    respond("bbbbb", {4: 0.6, 5: 0.5}),
    respond("cccc", {4: 0.65}),  # ends right at a checkpoint
    respond("dddddddddd", {4: 0.7, 6: 0.3, 10: 0.6}),
    respond("eeeeeeeeee", {4: 0.8, 6: 0.7, 10: 0.8}),
]
PRUNING = {
    "max_samples": 5,
    "adaptive": False,
    "prune_at": (4, 6),
    "keep_fraction": (0.8, 0.5),
    "seed": 1,
}


@pytest.mark.parametrize("chunk_tokens", [1, 3, 5, 100])
async def test_an_engine_that_does_not_pause_decides_alike_and_counts_what_ran_on(
    make_model: ModelFactory, chunk_tokens: int
) -> None:
    exact = (await ask(make_model(SCRIPT), **PRUNING)).outcome
    rough_model = make_model(SCRIPT, pauses_at_checkpoints=False, chunk_tokens=chunk_tokens)
    rough = (await ask(rough_model, **PRUNING)).outcome
    assert decisions(rough) == decisions(exact)
    assert [s.token_ids for s in rough.samples] == [s.token_ids for s in exact.samples]
    assert fates(rough) == fates(exact) == ["pruned", "finished", "finished", "pruned", "chosen"]
    assert rough.usage.generated_tokens >= exact.usage.generated_tokens
    assert (rough.samples[3].num_generated_tokens > 6) == (chunk_tokens in (5, 100))
    check_usage(rough)


def record(outcome: Outcome, script: list[ScriptedResponse]) -> list[SampleRecord]:
    return [
        SampleRecord(
            index=sample.index,
            temperature=sample.temperature,
            seed=sample.seed,
            token_ids=sample.token_ids,
            finish_reason="stop",
            num_generated_tokens=sample.num_generated_tokens,
            text="",
            sum_logprob=sample.sum_logprob,
            label_logprobs={
                e.num_tokens: response.label_logprobs_at(e.num_tokens) for e in sample.evaluations
            },
        )
        for sample, response in zip(outcome.samples, script, strict=True)
    ]


async def test_a_recording_replays_the_same_outcome(
    make_model: ModelFactory, chat: ScriptedChat, config: SelfEvalConfig
) -> None:
    everything = (await ask(make_model(SCRIPT), **{**PRUNING, "keep_fraction": 1.0})).outcome
    replay = replay_engine({PROMPT: record(everything, SCRIPT)})
    model = SelfEvaluatingModel(name="x", engine=replay, chat=chat, config=config)
    again = (await ask(model, **PRUNING)).outcome
    live = (await ask(make_model(SCRIPT), **PRUNING)).outcome
    assert again.samples == live.samples
    assert again.usage == live.usage
    assert decisions(again) == decisions(live)
    assert replay.num_open == 0


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=6, max_size=6),
    probs=st.lists(st.sampled_from((0.0, 0.3, 0.6, 1.0)), min_size=6, max_size=6),
    prune_at=st.sampled_from(((), (4,), (4, 8))),
    adaptive=st.booleans(),
    fail_after=st.none() | st.integers(0, 12),
    chunk_tokens=st.sampled_from((1, 5, None)),
    pauses=st.booleans(),
    accept_above=st.sampled_from((None, 0.6)),
)
def test_any_run_adds_up_and_tidies_up(
    lengths: list[int],
    probs: list[float],
    prune_at: tuple[int, ...],
    adaptive: bool,
    fail_after: int | None,
    chunk_tokens: int | None,
    pauses: bool,
    accept_above: float | None,
) -> None:
    script = [
        respond(chr(97 + i) * n, p) for i, (n, p) in enumerate(zip(lengths, probs, strict=True))
    ]
    script[-1] = replace(script[-1], fail_after=fail_after)
    engine = ScriptedEngine(script, chunk_tokens=chunk_tokens, pauses_at_checkpoints=pauses)
    with pytest.warns(UserWarning, match="not calibrated"):
        model = SelfEvaluatingModel(name="x", engine=engine, chat=CHAT, config=SelfEvalConfig())
    given = {"max_samples": 6, "adaptive": adaptive, "prune_at": prune_at}
    if prune_at:
        given["accept_above"] = accept_above
    try:
        outcome = asyncio.run(ask(model, **given)).outcome
    except NoFinishedSampleError as error:
        assert fail_after is not None
        assert error.trace.fault
    else:
        check_usage(outcome)
        json.dumps(to_json(outcome))
        assert len(outcome.samples) <= 6
        assert all(s.status != "running" for s in outcome.samples)
    assert engine.num_open == 0


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_samples": 4, "threshold": 0.99},
        {"max_samples": 4, "adaptive": False},
        {"prune_at": (2,), "accept_above": 0.5},
    ],
    ids=str,
)
async def test_nothing_is_chosen_by_an_evaluation_of_which_nothing_is_known(
    given: dict[str, object],
) -> None:
    engine = ScriptedEngine([respond("greedy", 0.1)], repeat=True)
    with pytest.warns(UncalibratedWarning, match="no selfeval.json.* `aic train`"):
        model = SelfEvaluatingModel(name="x", engine=engine, chat=CHAT, config=None)

    answer = await ask(model, **given)

    assert answer.text == "greedy"
    assert [call.params.temperature for call in engine.stream_calls] == [0.0]
    assert answer.outcome.usage.self_evaluations == 0
    summary = answer.summary()
    assert (summary["confidence"], summary["level"]) == (None, "unknown")
    assert "no selfeval.json" in summary["no_confidence"]
    assert read_confidence(summary).problem == (
        f"best_of_n has no confidence: {summary['no_confidence']}"
    )
    *pieces, _ = [piece async for piece in model.stream(QUESTION, model.settings(given))]
    assert "".join(map(str, pieces)) == "greedy"


def test_seeds_of_samples_share_nothing() -> None:
    seeds = {derive_seed(run, index) for run in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(7, 3) == derive_seed(7, 3)


async def test_the_run_seed_and_the_index_make_the_sample_seed(make_model: ModelFactory) -> None:
    model = make_model([respond("aa", 0.1)] * 2)
    answer = await ask(model, max_samples=2, seed=7)
    called = [call.params for call in engine_of(model).stream_calls]
    assert answer.seed == 7
    assert [params.seed for params in called] == [derive_seed(7, 0), derive_seed(7, 1)]
    assert {params.stop_token_ids for params in called} == {CHAT.end_token_ids}


@pytest.mark.timeout(120)
async def test_concurrent_runs_share_an_engine(make_model: ModelFactory) -> None:
    model = make_model(lambda call: respond(f"{call.params.seed}", 0.1))
    answers = await asyncio.gather(*(ask_open(model, seed) for seed in range(8)))
    for seed, answer in enumerate(answers):
        expected = {str(derive_seed(seed, index)) for index in range(2)}
        assert {CHAT.decode(s.token_ids) for s in answer.outcome.samples} == expected
    assert engine_of(model).num_open == 0


async def ask_open(model: SelfEvaluatingModel, seed: int) -> Answer:
    """Ask while others are at it."""
    return await model.answer(QUESTION, model.settings({"max_samples": 2, "seed": seed}))


async def test_a_stream_without_an_end_is_a_fault(make_model: ModelFactory) -> None:
    model = make_model([respond("aa")])

    engine = engine_of(model)
    original = engine.stream

    def cut(prompt_ids: tuple[int, ...], params: SamplingParams) -> GeneratorStream:
        async def generate(rest: list[Chunk]) -> AsyncGenerator[Chunk, None]:
            async for chunk in original(prompt_ids, params):
                yield replace(chunk, finish_reason=None)

        return GeneratorStream(generate)

    engine.stream = cut  # type: ignore[method-assign]  # a broken engine
    with pytest.raises(NoFinishedSampleError, match="without a finish_reason"):
        await ask(model)
