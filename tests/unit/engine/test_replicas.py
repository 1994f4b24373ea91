"""Replicas: prompts are spread and stay; one that fails is left out, and its samples go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.engine.base import Chunk, Engine, Grammar, SampleStream, SamplingParams
from selfeval_backend.engine.replicas import ReplicaSet, connect_replicas
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse, StreamCall
from selfeval_backend.errors import (
    ConfigurationError,
    EngineConnectionError,
    EngineError,
    EngineRequestError,
)

PARAMS = SamplingParams(temperature=1.0, max_tokens=30, seed=0, stop_token_ids=frozenset())
DOWN = EngineConnectionError("gone", retryable=True)
pytestmark = pytest.mark.filterwarnings("error")


def counting(call: StreamCall) -> ScriptedResponse:
    """Go on counting from the last token of the prompt."""
    first = call.prompt_ids[-1] + 1
    tokens = tuple(range(first, first + call.params.max_tokens))
    return ScriptedResponse(token_ids=tokens, finish_reason="length")


def breaking(after: int, error: EngineError = DOWN) -> ScriptedEngine:
    return ScriptedEngine(
        lambda call: replace(counting(call), fail_after=after, error=error), chunk_tokens=4
    )


def sound() -> ScriptedEngine:
    return ScriptedEngine(counting, chunk_tokens=4)


class Host:
    """Where an engine may be connected to, or not."""

    def __init__(self, *engines: ScriptedEngine | EngineError) -> None:
        self.engines = list(engines)

    async def __call__(self) -> Engine:
        engine = self.engines.pop(0) if len(self.engines) > 1 else self.engines[0]
        if isinstance(engine, EngineError):
            raise engine
        return engine


async def replicas(*hosts: Host, pause_s: float = 60.0) -> ReplicaSet:
    return await connect_replicas({f"r{i}": h for i, h in enumerate(hosts)}, pause_s=pause_s)


async def drain(stream: SampleStream) -> list[Chunk]:
    chunks = [chunk async for chunk in stream]
    await stream.aclose()
    return chunks


def tokens(chunks: Sequence[Chunk]) -> tuple[int, ...]:
    return tuple(token for chunk in chunks for token in chunk.token_ids)


@pytest.mark.timeout(120)
async def test_prompts_are_spread_and_each_stays_on_its_replica() -> None:
    engines = [sound(), sound(), sound()]
    made = await replicas(*map(Host, engines))
    prompts = [(1, 2, n) for n in range(6)]
    streams = [made.stream(prompt, PARAMS) for prompt in prompts for _ in range(3)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert [engine.num_open for engine in engines] == [6, 6, 6]
    for engine in engines:
        asked = [call.prompt_ids for call in engine.stream_calls]
        assert {asked.count(prompt) for prompt in asked} == {3}
    for stream in streams:
        await stream.aclose()
    assert [engine.num_open for engine in engines] == [0, 0, 0]


async def test_an_evaluation_goes_where_its_prompt_is() -> None:
    engines = [sound(), sound()]
    made = await replicas(*map(Host, engines))
    streams = [made.stream((1, n), PARAMS) for n in range(2)]
    for stream in streams:
        await anext(stream)
    for n in (0, 1):
        answer = await made.label_logprobs((1, n, n + 1, 77), (5, 6))
        assert answer.cached_tokens == 3
    assert [len(engine.evaluation_calls) for engine in engines] == [1, 1]
    for stream in streams:
        await stream.aclose()


async def test_a_sample_goes_on_elsewhere_and_the_cost_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tools that other tests run disable the loggers there are.
    monkeypatch.setattr(logging.getLogger("selfeval_backend.engine.replicas"), "disabled", False)
    first, second = breaking(10), sound()
    made = await replicas(Host(first), Host(second))
    chunks = await drain(made.stream((1, 2, 3), replace(PARAMS, checkpoints=(6, 16))))
    assert tokens(chunks) == tuple(range(4, 34))
    assert chunks[-1].finish_reason == "length"
    assert sum(chunk.num_generated_tokens for chunk in chunks) == 30
    (resumed,) = second.stream_calls
    assert len(resumed.prompt_ids) == 3 + 10
    assert resumed.params.max_tokens == 20
    assert resumed.params.checkpoints == (6,)
    assert resumed.params.seed != PARAMS.seed
    assert sum(chunk.resent_tokens for chunk in chunks) == 13
    assert made.in_use == ("r1",)
    assert "r0 is left out" in caplog.text


@given(after=st.lists(st.integers(0, 29), min_size=1, max_size=4))
async def test_any_failures_leave_the_sample_whole(after: list[int]) -> None:
    made = await replicas(*(Host(breaking(n)) for n in after), Host(sound()))
    chunks = await drain(made.stream((0,), PARAMS))
    assert tokens(chunks) == tuple(range(1, 31))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


@pytest.mark.timeout(120)
async def test_all_samples_of_a_prompt_move_together() -> None:
    second, third = sound(), sound()
    made = await replicas(Host(breaking(5)), Host(second), Host(third))
    together = [drain(made.stream((1,), replace(PARAMS, seed=seed))) for seed in range(8)]
    for chunks in await asyncio.gather(*together):
        assert len(tokens(chunks)) == 30
    assert sorted(len(engine.stream_calls) for engine in (second, third)) == [0, 8]


async def test_an_evaluation_is_asked_elsewhere() -> None:
    refusing = ScriptedEngine(counting, unknown_label_logprobs=(-1.0, -2.0))

    async def fail(*_: object) -> None:
        raise DOWN

    refusing.label_logprobs = fail  # type: ignore[method-assign, assignment]  # it is down
    made = await replicas(
        Host(refusing), Host(ScriptedEngine(counting, unknown_label_logprobs=(-3.0, -4.0)))
    )
    answer = await made.label_logprobs((1, 2), (5, 6))
    assert answer.logprobs == (-3.0, -4.0)


@pytest.mark.timeout(120)
async def test_a_replica_is_used_again_once_it_can_be_connected_to() -> None:
    again = sound()
    made = await replicas(Host(breaking(2), DOWN, again), Host(sound()), pause_s=0.01)
    await drain(made.stream((1,), PARAMS))
    assert made.in_use == ("r1",)
    for _ in range(500):
        if made.in_use == ("r0", "r1"):
            break
        await asyncio.sleep(0.01)
        await drain(made.stream((1,), PARAMS))
    busy, idle = made.stream((1,), PARAMS), made.stream((2,), PARAMS)
    await asyncio.gather(anext(busy), anext(idle))
    assert again.num_open == 1
    await busy.aclose()
    await idle.aclose()


async def test_one_that_is_down_at_the_start_is_left_out() -> None:
    made = await replicas(Host(DOWN), Host(sound()))
    assert made.in_use == ("r1",)
    assert len(tokens(await drain(made.stream((1,), PARAMS)))) == 30


async def test_none_at_the_start_is_an_error() -> None:
    with pytest.raises(EngineConnectionError, match="gone"):
        await replicas(Host(DOWN), Host(DOWN))


async def test_one_that_refuses_for_good_is_an_error() -> None:
    fine = sound()
    with pytest.raises(EngineRequestError):
        await replicas(Host(EngineRequestError("wrong key", status_code=401)), Host(fine))
    with pytest.raises(EngineError, match="closed"):
        await drain(fine.stream((1,), PARAMS))


async def test_when_all_have_failed_the_error_names_them_and_later_calls_try_again() -> None:
    made = await replicas(Host(breaking(2), DOWN, sound()), Host(breaking(4), DOWN))
    stream = made.stream((1,), PARAMS)
    seen: list[Chunk] = []

    async def collect() -> None:
        async for chunk in stream:
            seen.append(chunk)  # noqa: PERF401  # what came before the error is wanted

    with pytest.raises(EngineConnectionError, match="r0, r1"):
        await collect()
    assert tokens(seen) == (2, 3, 4, 5, 6, 7)
    await stream.aclose()
    assert len(tokens(await drain(made.stream((1,), PARAMS)))) == 30


async def test_a_request_that_is_refused_is_no_failure_of_the_replica() -> None:
    bad = EngineRequestError("no such parameter", status_code=400)
    made = await replicas(Host(breaking(2, bad)), Host(sound()))
    with pytest.raises(EngineRequestError):
        await drain(made.stream((1,), PARAMS))
    assert made.in_use == ("r0", "r1")


UNDER_GRAMMAR = replace(PARAMS, grammar=Grammar.of({}), stop_token_ids=frozenset({9999}))


async def test_a_sample_under_a_grammar_does_not_go_on_elsewhere() -> None:
    made = await replicas(Host(breaking(9)), Host(sound()))
    assert made.capabilities.takes_grammars
    stream = made.stream((1, 2, 3), UNDER_GRAMMAR)
    with pytest.raises(EngineError, match="grammar") as caught:
        await drain(stream)
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, EngineConnectionError)
    await stream.aclose()
    assert made.in_use == ("r1",)


async def test_a_sample_under_a_grammar_begins_elsewhere() -> None:
    made = await replicas(Host(breaking(0)), Host(sound()))
    assert len(tokens(await drain(made.stream((1, 2, 3), UNDER_GRAMMAR)))) == 30


async def test_replicas_take_grammars_if_all_of_them_do() -> None:
    made = await replicas(Host(sound()), Host(ScriptedEngine(counting, takes_grammars=False)))
    assert not made.capabilities.takes_grammars
    with pytest.raises(ConfigurationError, match="grammar"):
        await drain(made.stream((1, 2, 3), UNDER_GRAMMAR))


async def test_replicas_take_min_p_if_all_of_them_do() -> None:
    made = await replicas(Host(sound()), Host(ScriptedEngine(counting, takes_min_p=False)))
    with pytest.raises(ConfigurationError, match="min_p"):
        await drain(made.stream((1, 2, 3), replace(PARAMS, min_p=0.1)))
