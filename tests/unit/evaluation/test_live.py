"""Many prompts, through one model."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.scripted import (
    ScriptedChat,
    ScriptedEngine,
    ScriptedResponse,
    StreamCall,
)
from selfeval_backend.errors import ConfigurationError, EngineError, NoFinishedSampleError
from selfeval_backend.evaluation.live import compare, run_method
from selfeval_backend.evaluation.methods import Method, standard_methods
from selfeval_backend.evaluation.rivals import Oracle
from selfeval_backend.evaluation.tasks import reference_items
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.settings import Settings
from tests.conftest import ModelFactory
from tests.unit.samples.puzzler import Puzzler

ALL_AT_ONCE = Method(name="all", settings=Settings(max_samples=4, adaptive=False))


def engine_of(model: SelfEvaluatingModel) -> ScriptedEngine:
    assert isinstance(model.engine, ScriptedEngine)
    return model.engine


async def test_methods_compared(model: SelfEvaluatingModel) -> None:
    rows = await compare(model, reference_items(12, seed=3), standard_methods(model), seed=3)

    one, greedy, full, adaptive, pruning, both = rows
    assert 0.0 < one.accuracy < full.accuracy == 1.0
    assert (one.improvement_kept, full.improvement_kept) == (0.0, 1.0)
    assert (one.self_evaluation_tokens, greedy.self_evaluation_tokens) == (0, 0)
    assert (one.mean_samples, greedy.mean_samples) == (1.0, 1.0)
    assert (full.mean_samples, pruning.mean_samples) == (16.0, 16.0)
    assert full.tokens_saved == 0.0
    assert adaptive.accuracy == pruning.accuracy == both.accuracy == 1.0
    assert 1.0 < adaptive.mean_samples < 16.0
    assert pruning.generated_tokens < full.generated_tokens
    assert both.generated_tokens < adaptive.generated_tokens < full.generated_tokens
    assert engine_of(model).num_open == 0


async def test_one_sample_is_the_first_of_best_of_16(model: SelfEvaluatingModel) -> None:
    items = reference_items(1, seed=0)
    one, _, full, *_ = standard_methods(model)

    await run_method(model, items, one, seed=5)
    assert not engine_of(model).evaluation_calls
    await run_method(model, items, full, seed=5)

    seeds = [call.params.seed for call in engine_of(model).stream_calls]
    run_seed = derive_seed(5, 0)
    assert seeds == [derive_seed(run_seed, 0), *(derive_seed(run_seed, i) for i in range(16))]


async def test_the_same_seed_gives_the_same_results(model: SelfEvaluatingModel) -> None:
    items = reference_items(6, seed=0)

    first = await run_method(model, items, ALL_AT_ONCE, seed=1)
    again = await run_method(model, items, ALL_AT_ONCE, seed=1, concurrency=2)
    other = await run_method(model, items, ALL_AT_ONCE, seed=2)

    assert first.results == again.results
    assert first.results != other.results


async def test_no_more_prompts_than_asked_for_run_at_once(make_model: ModelFactory) -> None:
    puzzler, open_at_begin = Puzzler(delay_s=0.01), []

    def script(call: StreamCall) -> ScriptedResponse:
        open_at_begin.append(engine_of(model).num_open + 1)
        return puzzler(call)

    model = make_model(script)
    told: list[tuple[str, int, int]] = []
    await run_method(
        model,
        reference_items(9, seed=0),
        replace(ALL_AT_ONCE, settings=Settings(max_samples=1)),
        seed=0,
        concurrency=3,
        progress=lambda *progress: told.append(progress),
    )

    assert max(open_at_begin) == 3
    assert told == [("all", done, 9) for done in range(1, 10)]


async def test_a_fault_ends_everything(make_model: ModelFactory, chat: ScriptedChat) -> None:
    good = chat.response("fine", 0.5)
    bad = chat.response("not fine", 0.5, fail_after=3, error=EngineError("out of memory"))
    model = make_model(lambda call: bad if call.ordinal == 1 else good)

    with pytest.raises(EngineError, match=r"^all: .* out of memory"):
        await run_method(model, reference_items(4, seed=0), ALL_AT_ONCE, seed=0)

    assert engine_of(model).num_open == 0


async def test_a_prompt_without_any_answer_ends_everything(
    make_model: ModelFactory, chat: ScriptedChat
) -> None:
    model = make_model(lambda _: chat.response("not fine", 0.5, fail_after=3))

    with pytest.raises(NoFinishedSampleError):
        await run_method(model, reference_items(4, seed=0), ALL_AT_ONCE, seed=0)

    assert engine_of(model).num_open == 0


async def test_a_cancelled_comparison_leaves_nothing_running(make_model: ModelFactory) -> None:
    model = make_model(Puzzler(delay_s=60.0))
    running = asyncio.create_task(
        compare(model, reference_items(4, seed=0), standard_methods(model), seed=0)
    )
    while engine_of(model).num_open < 4:
        await asyncio.sleep(0.001)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert engine_of(model).num_open == 0


async def test_a_method_that_looks_at_more_than_answers_is_refused_before_a_token(
    model: SelfEvaluatingModel,
) -> None:
    oracle = replace(ALL_AT_ONCE, rival=Oracle())
    with pytest.raises(ConfigurationError, match="methods that need answers at most"):
        await run_method(model, reference_items(1, seed=0), oracle, seed=0)
    assert not engine_of(model).stream_calls
