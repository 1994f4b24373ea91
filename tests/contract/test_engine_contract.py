"""What every engine must do, whatever it is made of."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from dataclasses import replace

import pytest

from selfeval_backend.engine.base import (
    Chunk,
    Engine,
    Grammar,
    LabelLogprobs,
    SampleStream,
    SamplingParams,
)
from selfeval_backend.errors import (
    AICError,
    ConfigurationError,
    ContextLengthError,
    EngineClosedError,
)

from .conftest import EngineCase

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, seed=0, stop_token_ids=frozenset())
SAMPLED = replace(GREEDY, temperature=1.0)


async def collect(stream: SampleStream) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def collect_into(chunks: list[Chunk], stream: SampleStream) -> None:
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401  # what came before an error is kept


def tokens_of(chunks: list[Chunk]) -> tuple[int, ...]:
    return tuple(token_id for chunk in chunks for token_id in chunk.token_ids)


def logprobs_of(chunks: list[Chunk]) -> list[float]:
    return [logprob for chunk in chunks for logprob in chunk.logprobs or ()]


async def sample(case: EngineCase, params: SamplingParams) -> tuple[int, ...]:
    return tokens_of(await collect(case.engine.stream(case.prompt, params)))


async def evaluate(case: EngineCase, response: tuple[int, ...]) -> LabelLogprobs:
    token_ids = case.prompt + response + case.question
    return await case.engine.label_logprobs(token_ids, case.label_ids)


def test_capabilities_are_constant(case: EngineCase) -> None:
    engine: Engine = case.engine
    assert engine.capabilities == engine.capabilities
    assert engine.capabilities.name
    assert engine.capabilities.context_length > len(case.prompt) + GREEDY.max_tokens


async def test_a_sample_ends_at_max_tokens(case: EngineCase) -> None:
    chunks = await collect(case.engine.stream(case.prompt, SAMPLED))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    assert len(tokens_of(chunks)) == SAMPLED.max_tokens
    assert [chunk.num_generated_tokens for chunk in chunks] == [len(c.token_ids) for c in chunks]
    assert [chunk.cached_prompt_tokens for chunk in chunks[1:-1]] == [0] * (len(chunks) - 2)
    assert 0 <= sum(chunk.cached_prompt_tokens for chunk in chunks) <= len(case.prompt)


async def test_one_token_is_a_sample(case: EngineCase) -> None:
    (chunk,) = await collect(case.engine.stream(case.prompt, replace(GREEDY, max_tokens=1)))
    assert (len(chunk.token_ids), chunk.finish_reason) == (1, "length")


@pytest.mark.parametrize("index", [0, 5, 25])
async def test_a_stop_token_ends_a_sample_and_is_counted(case: EngineCase, index: int) -> None:
    free = await sample(case, SAMPLED)
    stop = free[index]
    params = replace(SAMPLED, stop_token_ids=frozenset({stop}))
    chunks = await collect(case.engine.stream(case.prompt, params))
    assert tokens_of(chunks) == free[: free.index(stop)]
    assert chunks[-1].finish_reason == "stop"
    assert sum(chunk.num_generated_tokens for chunk in chunks) == free.index(stop) + 1


async def test_a_stop_token_on_the_last_token_is_a_stop(case: EngineCase) -> None:
    free = await sample(case, SAMPLED)
    stop = free[7]
    first = free.index(stop)
    params = replace(SAMPLED, stop_token_ids=frozenset({stop}), max_tokens=first + 1)
    chunks = await collect(case.engine.stream(case.prompt, params))
    assert (tokens_of(chunks), chunks[-1].finish_reason) == (free[:first], "stop")


async def test_chunks_end_at_checkpoints(case: EngineCase) -> None:
    params = replace(SAMPLED, checkpoints=(1, 7, 8, 33, 99))
    chunks = await collect(case.engine.stream(case.prompt, params))
    ends, total = set(), 0
    for chunk in chunks:
        total += chunk.num_generated_tokens
        ends.add(total)
    assert {1, 7, 8, 33, 40} <= ends
    if case.engine.capabilities.resubmits:  # each piece has a seed of its own
        assert tokens_of(chunks) == await sample(case, params)
    else:
        assert tokens_of(chunks) == await sample(case, SAMPLED)


@pytest.mark.timeout(120)
async def test_a_seed_fixes_a_sample(case: EngineCase) -> None:
    first, again, other = await asyncio.gather(
        sample(case, replace(SAMPLED, seed=1)),
        sample(case, replace(SAMPLED, seed=1)),
        sample(case, replace(SAMPLED, seed=2)),
    )
    assert first == again
    assert first != other


@pytest.mark.timeout(120)
async def test_a_sample_does_not_depend_on_what_else_runs(case: EngineCase) -> None:
    wanted = [replace(SAMPLED, seed=seed, max_tokens=5 + 3 * seed) for seed in range(10)]
    alone = [await sample(case, params) for params in wanted]
    together = await asyncio.gather(*(sample(case, params) for params in wanted))
    assert together == alone


async def test_logprobs_are_given_if_asked_for(case: EngineCase) -> None:
    eos = frozenset({case.eos_id})
    asked = replace(SAMPLED, logprobs=True, stop_token_ids=eos)
    for chunk in await collect(case.engine.stream(case.prompt, asked)):
        assert chunk.logprobs is not None
        assert len(chunk.logprobs) == chunk.num_generated_tokens
        assert all(logprob <= 0 for logprob in chunk.logprobs)
    for chunk in await collect(case.engine.stream(case.prompt, SAMPLED)):
        assert chunk.logprobs is None


@pytest.mark.parametrize("only", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}], ids=str)
@pytest.mark.timeout(120)
async def test_where_only_the_likeliest_token_is_left_a_sample_is_greedy(
    case: EngineCase, only: dict[str, float]
) -> None:
    if "top_p" in only and case.engine.capabilities.name == "scripted":
        pytest.skip("this script does not heed top_p")
    greedy = await collect(case.engine.stream(case.prompt, replace(GREEDY, logprobs=True)))
    params = replace(SAMPLED, temperature=1.5, logprobs=True, **only)
    chunks = await collect(case.engine.stream(case.prompt, params))
    assert tokens_of(chunks) == tokens_of(greedy)
    # What is left out leaves log-probabilities as they are.
    assert logprobs_of(chunks) == pytest.approx(logprobs_of(greedy), abs=1e-3)


@pytest.mark.parametrize("kept", [{"top_k": 4}, {"min_p": 0.3}, {"top_p": 0.8}], ids=str)
async def test_what_is_left_is_drawn_by_the_seed(case: EngineCase, kept: dict[str, float]) -> None:
    seeds = [replace(SAMPLED, seed=seed, **kept) for seed in (1, 1, 2, 3)]
    first, again, *others = await asyncio.gather(*(sample(case, params) for params in seeds))
    assert first == again
    assert others != [first, first]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.timeout(120)
async def test_a_high_repetition_penalty_keeps_tokens_of_prompt_and_sample_from_coming_back(
    case: EngineCase, temperature: float
) -> None:
    params = replace(GREEDY, temperature=temperature, repetition_penalty=1e6, max_tokens=12)
    drawn = await sample(case, params)
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(case.prompt)


@pytest.mark.timeout(120)
async def test_each_sample_of_a_batch_is_drawn_in_its_own_way(case: EngineCase) -> None:
    wanted = [
        SAMPLED,
        replace(SAMPLED, top_k=2),
        replace(SAMPLED, repetition_penalty=1.3),
        replace(GREEDY, repetition_penalty=1.3),
        replace(SAMPLED, min_p=0.2, top_p=0.9),
    ]
    alone = [await sample(case, params) for params in wanted]
    together = await asyncio.gather(*(sample(case, params) for params in wanted))
    assert together == alone


async def test_label_logprobs_are_in_the_order_of_the_labels(case: EngineCase) -> None:
    response = await sample(case, SAMPLED)
    answer = await evaluate(case, response)
    backwards = await case.engine.label_logprobs(
        case.prompt + response + case.question, case.label_ids[::-1]
    )
    assert answer.logprobs == pytest.approx(backwards.logprobs[::-1], abs=1e-4)
    assert sum(map(math.exp, answer.logprobs)) <= 1 + 1e-4


async def test_label_logprobs_say_what_they_cost(case: EngineCase) -> None:
    response = await sample(case, SAMPLED)
    answer = await evaluate(case, response)
    num_tokens = len(case.prompt + response + case.question)
    assert answer.computed_tokens + answer.cached_tokens == num_tokens
    assert answer.computed_tokens >= 1


@pytest.mark.timeout(120)
async def test_evaluations_leave_generation_as_it_was(case: EngineCase) -> None:
    if not case.engine.capabilities.evaluates_mid_generation:
        pytest.skip("evaluates finished samples only")
    params = replace(SAMPLED, checkpoints=(3, 11, 20))
    free = await sample(case, params)

    async def evaluated() -> tuple[tuple[int, ...], list[LabelLogprobs]]:
        response: tuple[int, ...] = ()
        answers = []
        async for chunk in case.engine.stream(case.prompt, params):
            response += chunk.token_ids
            answers.append(await evaluate(case, response))
        return response, answers

    (first, answers), (second, again) = await asyncio.gather(evaluated(), evaluated())
    assert first == second == free
    for answer, other in zip(answers, again, strict=True):
        assert answer.logprobs == pytest.approx(other.logprobs, abs=1e-4)


async def test_an_open_stream_serves_its_evaluation_after_the_last_chunk(case: EngineCase) -> None:
    stream = case.engine.stream(case.prompt, SAMPLED)
    chunks = []
    async for chunk in stream:
        chunks.append(chunk)
        if chunk.finish_reason is not None:
            break
    while_open = await evaluate(case, tokens_of(chunks))
    await stream.aclose()
    afterwards = await evaluate(case, tokens_of(chunks))
    assert while_open.logprobs == pytest.approx(afterwards.logprobs, abs=1e-4)
    assert while_open.computed_tokens <= afterwards.computed_tokens


async def test_a_closed_stream_leaves_the_others_alone(case: EngineCase) -> None:
    params = replace(SAMPLED, checkpoints=(4,))
    alone = await sample(case, params)
    doomed = case.engine.stream(case.prompt, replace(params, seed=5))
    survivor = asyncio.create_task(sample(case, params))
    await anext(doomed)
    await doomed.aclose()
    assert await survivor == alone


async def test_a_closed_stream_has_a_last_word(case: EngineCase) -> None:
    params = replace(SAMPLED, checkpoints=(5,), max_tokens=200, logprobs=True)
    whole = await sample(case, params)
    stream = case.engine.stream(case.prompt, params)
    seen: tuple[int, ...] = ()
    while len(seen) < 5:
        seen += (await anext(stream)).token_ids
    last_word = await stream.aclose()
    assert last_word.finish_reason is None
    assert (
        last_word.num_generated_tokens == len(last_word.token_ids) == len(last_word.logprobs or ())
    )
    assert (seen + last_word.token_ids) == whole[: len(seen) + last_word.num_generated_tokens]
    if case.engine.capabilities.pauses_at_checkpoints:
        assert last_word.num_generated_tokens == 0
    assert (await stream.aclose()).num_generated_tokens == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_finished_stream_and_one_that_never_began_have_none(case: EngineCase) -> None:
    stream = case.engine.stream(case.prompt, SAMPLED)
    chunks = [chunk async for chunk in stream]
    assert sum(chunk.num_generated_tokens for chunk in chunks) == SAMPLED.max_tokens
    assert (await stream.aclose()).num_generated_tokens == 0
    assert (await case.engine.stream(case.prompt, SAMPLED).aclose()).num_generated_tokens == 0


@pytest.mark.timeout(120)
async def test_a_stream_closed_while_somebody_waits_for_it_stops(case: EngineCase) -> None:
    params = replace(SAMPLED, max_tokens=200)
    stream = case.engine.stream(case.prompt, params)
    waiting = asyncio.ensure_future(collect(stream))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    last_word = await stream.aclose()
    assert 0 <= last_word.num_generated_tokens < 200
    assert len(await sample(case, SAMPLED)) == SAMPLED.max_tokens


async def test_chunks_are_as_fine_as_asked_for(case: EngineCase) -> None:
    if case.engine.capabilities.resubmits:
        pytest.skip("a sample comes in the pieces that its checkpoints make")
    chunks = await collect(case.engine.stream(case.prompt, replace(SAMPLED, chunk_tokens=3)))
    assert max(chunk.num_generated_tokens for chunk in chunks) <= 3


async def test_a_cancelled_consumer_leaves_the_engine_usable(case: EngineCase) -> None:
    task = asyncio.create_task(sample(case, replace(SAMPLED, max_tokens=200)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await sample(case, SAMPLED)) == SAMPLED.max_tokens


async def test_a_cancelled_evaluation_leaves_the_engine_usable(case: EngineCase) -> None:
    task = asyncio.create_task(evaluate(case, ()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await evaluate(case, ())).logprobs) == len(case.label_ids)


@pytest.mark.timeout(120)
def test_two_event_loops_share_an_engine(case: EngineCase) -> None:
    answers: dict[int, list[tuple[int, ...]]] = {}

    async def several() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(sample(case, replace(SAMPLED, seed=s)) for s in range(4)))

    def run(name: int) -> None:
        answers[name] = asyncio.run(several())

    threads = [threading.Thread(target=run, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 2
    assert answers[0] == answers[1]


async def test_closing_ends_open_streams(case: EngineCase) -> None:
    stream = case.engine.stream(case.prompt, replace(SAMPLED, checkpoints=(4,)))
    chunk = await anext(stream)
    assert chunk.num_generated_tokens >= 1
    await case.engine.aclose()
    with pytest.raises(EngineClosedError):
        await collect(stream)


async def test_a_closed_engine_refuses_everything(case: EngineCase) -> None:
    await sample(case, SAMPLED)
    await case.engine.aclose()
    await case.engine.aclose()
    with pytest.raises(EngineClosedError):
        await sample(case, SAMPLED)
    with pytest.raises(EngineClosedError):
        await evaluate(case, ())


async def test_a_prompt_that_does_not_fit_is_refused(case: EngineCase) -> None:
    room = case.engine.capabilities.context_length - len(case.prompt)
    with pytest.raises(ContextLengthError) as caught:
        await sample(case, replace(GREEDY, max_tokens=room + 1))
    assert caught.value.num_prompt_tokens == len(case.prompt)
    too_long = (case.prompt[0],) * (case.engine.capabilities.context_length + 1)
    with pytest.raises(ContextLengthError):
        await case.engine.label_logprobs(too_long, case.label_ids)


async def test_an_empty_prompt_is_refused(case: EngineCase) -> None:
    with pytest.raises(ConfigurationError):
        await collect(case.engine.stream((), GREEDY))
    with pytest.raises(ConfigurationError):
        await case.engine.label_logprobs((), case.label_ids)


@pytest.mark.parametrize(
    "params",
    [
        replace(GREEDY, max_tokens=0),
        replace(GREEDY, temperature=-1.0),
        replace(GREEDY, temperature=math.nan),
        replace(GREEDY, top_p=0.0),
        replace(GREEDY, top_k=-1),
        replace(GREEDY, min_p=-0.1),
        replace(GREEDY, min_p=1.1),
        replace(GREEDY, min_p=math.nan),
        replace(GREEDY, repetition_penalty=0.0),
        replace(GREEDY, repetition_penalty=math.inf),
        replace(GREEDY, checkpoints=(4, 4)),
        replace(GREEDY, checkpoints=(0,)),
        replace(GREEDY, seed=-1),
        replace(GREEDY, chunk_tokens=0),
    ],
    ids=str,
)
async def test_bad_parameters_are_refused(case: EngineCase, params: SamplingParams) -> None:
    with pytest.raises(AICError):
        await sample(case, params)


SIGNS = Grammar.of(
    {
        "type": "object",
        "properties": {
            "solved": {"type": "boolean"},
            "signs": {"type": "array", "items": {"enum": ["+", "-"]}, "minItems": 2, "maxItems": 3},
        },
        "required": ["solved", "signs"],
        "additionalProperties": False,
    }
)


def skip_without_grammars(case: EngineCase) -> None:
    if not case.engine.capabilities.takes_grammars:
        pytest.skip("draws no samples under a grammar")


def under_grammar(case: EngineCase, params: SamplingParams) -> SamplingParams:
    eos = frozenset({case.eos_id})
    return replace(params, grammar=SIGNS, stop_token_ids=eos, max_tokens=120)


@pytest.mark.timeout(120)
async def test_a_sample_under_a_grammar_is_what_the_grammar_says(case: EngineCase) -> None:
    skip_without_grammars(case)
    wanted = [under_grammar(case, GREEDY)]
    wanted += [under_grammar(case, replace(SAMPLED, seed=seed)) for seed in range(6)]
    streams = [collect(case.engine.stream(case.prompt, params)) for params in wanted]
    free = sample(case, replace(SAMPLED, seed=3))
    *drawn, beside = await asyncio.gather(*streams, free)
    assert beside == await sample(case, replace(SAMPLED, seed=3))  # left alone by its neighbours
    for chunks in drawn:
        assert isinstance(chunks[-1], Chunk)
        assert chunks[-1].finish_reason == "stop"
        value = json.loads(case.decode(tokens_of(chunks)))
        assert list(value) == ["solved", "signs"]
        assert isinstance(value["solved"], bool)
        assert set(value["signs"]) <= {"+", "-"}
        assert 2 <= len(value["signs"]) <= 3


async def test_a_seed_fixes_a_sample_under_a_grammar(case: EngineCase) -> None:
    skip_without_grammars(case)
    params = under_grammar(case, replace(SAMPLED, seed=4))
    assert await sample(case, params) == await sample(case, params)


async def test_self_evaluations_know_nothing_of_a_grammar(case: EngineCase) -> None:
    skip_without_grammars(case)
    params = under_grammar(case, replace(SAMPLED, checkpoints=(3, 9)))
    response: tuple[int, ...] = ()
    while_open: dict[tuple[int, ...], LabelLogprobs] = {}
    stream = case.engine.stream(case.prompt, params)
    async for chunk in stream:
        response += chunk.token_ids
        while_open[response] = await evaluate(case, response)
    await stream.aclose()
    json.loads(case.decode(response))
    for read, answer in while_open.items():
        afterwards = await evaluate(case, read)
        assert answer.logprobs == pytest.approx(afterwards.logprobs, abs=1e-4)
        assert math.isfinite(sum(answer.logprobs))


@pytest.mark.parametrize(
    "schema", ['{"type": "array", "uniqueItems": true, "contains": {"const": 1}}', "[1]", "{"]
)
async def test_a_grammar_that_cannot_be_followed_is_refused_before_any_token(
    case: EngineCase, schema: str
) -> None:
    if case.engine.capabilities.takes_grammars and "type" in schema and not case.compiles_grammars:
        pytest.skip("a script follows what it is written to follow")
    params = replace(under_grammar(case, SAMPLED), grammar=Grammar(json_schema=schema))
    stream = case.engine.stream(case.prompt, params)
    drawn: list[Chunk] = []
    with pytest.raises(ConfigurationError) as caught:
        await collect_into(drawn, stream)
    assert sum(chunk.num_generated_tokens for chunk in drawn) == 0
    assert caught.value.field == "grammar"
    assert (await stream.aclose()).num_generated_tokens == 0
    assert len(await sample(case, SAMPLED)) == SAMPLED.max_tokens


async def test_a_grammar_needs_a_token_that_ends_the_text(case: EngineCase) -> None:
    with pytest.raises(ConfigurationError):
        await sample(case, replace(SAMPLED, grammar=SIGNS))
