"""What is particular to the engine that answers from records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.errors import ConfigurationError, EngineError, EngineResponseError
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.samples.replay import replay_engine

PROMPT = (7, 8, 9)
PARAMS = SamplingParams(temperature=1.0, max_tokens=50, seed=0, stop_token_ids=frozenset())
QUESTION = (99, 98)


async def drain(stream: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in stream]


RECORDED = SampleRecord(
    index=0,
    temperature=1.0,
    seed=0,
    text="abc",
    token_ids=(1, 2, 3),
    finish_reason="stop",
    num_generated_tokens=4,
    label_logprobs={2: (-1.0, -2.0), 3: (-3.0, -4.0)},
    sum_logprob=-8.0,
)


@pytest.mark.timeout(120)
async def test_a_replay_hands_out_samples_in_order_until_they_are_used_up() -> None:
    engine = replay_engine({PROMPT: [RECORDED, replace(RECORDED, token_ids=(4, 5, 6))]})
    params = replace(PARAMS, logprobs=True)
    streams = [engine.stream(PROMPT, params) for _ in range(3)]
    second, first = await asyncio.gather(drain(streams[1]), drain(streams[0]))
    assert (first[0].token_ids, second[0].token_ids) == ((1, 2, 3), (4, 5, 6))
    assert first[0].logprobs == (-2.0,) * 4
    with pytest.raises(EngineError, match=r"replay engine is used up.*holds 2.*response 3"):
        await drain(streams[2])
    with pytest.raises(EngineError, match="holds 0"):
        await drain(engine.stream((5,), params))


async def test_a_replay_knows_only_recorded_positions() -> None:
    engine = replay_engine({PROMPT: [RECORDED]})
    stream = engine.stream(PROMPT, replace(PARAMS, checkpoints=(1, 2)))
    await anext(stream)
    with pytest.raises(EngineResponseError, match=r"at 1 tokens.*only at 2, 3"):
        await engine.label_logprobs((*PROMPT, 1, *QUESTION), (0, 1))
    await stream.aclose()
    assert engine.num_open == 0


def test_a_record_whose_counts_do_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_generated_tokens"):
        replay_engine({PROMPT: [replace(RECORDED, num_generated_tokens=2)]})
