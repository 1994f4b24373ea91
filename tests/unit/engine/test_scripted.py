"""What is particular to the scripted engine; the contract suite has the rest."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from selfeval_backend.chat import Message
from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.engine.scripted import (
    ScriptedChat,
    ScriptedEngine,
    ScriptedResponse,
    label_logprobs_of,
)
from selfeval_backend.errors import (
    ConfigurationError,
    EngineConnectionError,
    EngineError,
    EngineRequestError,
    EngineResponseError,
)

PROMPT = (7, 8, 9)
PARAMS = SamplingParams(temperature=1.0, max_tokens=50, seed=0, stop_token_ids=frozenset())
RESPONSE = ScriptedResponse(token_ids=(1, 2, 3, 4, 5))
QUESTION = (99, 98)


async def drain(stream: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in stream]


def sizes(chunks: list[Chunk]) -> list[int]:
    return [chunk.num_generated_tokens for chunk in chunks]


async def test_chunks_end_at_checkpoints_and_the_end_token_is_paid_for() -> None:
    engine = ScriptedEngine([RESPONSE])
    chunks = await drain(engine.stream(PROMPT, replace(PARAMS, checkpoints=(2, 5, 9))))
    assert [chunk.token_ids for chunk in chunks] == [(1, 2), (3, 4, 5), ()]
    assert sizes(chunks) == [2, 3, 1]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]


async def test_an_engine_that_does_not_pause_overshoots() -> None:
    engine = ScriptedEngine([RESPONSE], pauses_at_checkpoints=False, chunk_tokens=4)
    chunks = await drain(engine.stream(PROMPT, replace(PARAMS, checkpoints=(2,))))
    assert sizes(chunks) == [4, 2]


@pytest.mark.parametrize(
    ("max_tokens", "token_ids", "reason"),
    [(6, (1, 2, 3, 4, 5), "stop"), (5, (1, 2, 3, 4, 5), "length"), (2, (1, 2), "length")],
)
async def test_max_tokens_cuts(max_tokens: int, token_ids: tuple[int, ...], reason: str) -> None:
    engine = ScriptedEngine([RESPONSE])
    (chunk,) = await drain(engine.stream(PROMPT, replace(PARAMS, max_tokens=max_tokens)))
    assert (chunk.token_ids, chunk.finish_reason) == (token_ids, reason)
    assert chunk.num_generated_tokens == max_tokens


async def test_open_streams_are_counted() -> None:
    engine = ScriptedEngine([RESPONSE] * 2)
    first, second = (engine.stream(PROMPT, PARAMS) for _ in range(2))
    assert engine.num_open == 0
    await anext(first)
    assert (engine.num_open, engine.num_running) == (1, 0)
    await first.aclose()
    await second.aclose()
    assert engine.num_open == 0
    assert [call.ordinal for call in engine.stream_calls] == [0, 1]


async def test_a_prompt_is_cached_while_another_stream_of_it_is_open() -> None:
    engine = ScriptedEngine([RESPONSE] * 3)
    first, second, third = (engine.stream(PROMPT, PARAMS) for _ in range(3))
    assert (await anext(first)).cached_prompt_tokens == 0
    assert (await anext(second)).cached_prompt_tokens == len(PROMPT)
    await first.aclose()
    await second.aclose()
    assert (await anext(third)).cached_prompt_tokens == 0
    await third.aclose()


async def test_a_fault_comes_after_its_tokens() -> None:
    error = EngineConnectionError("gone", retryable=True)
    engine = ScriptedEngine([replace(RESPONSE, fail_after=3, error=error)])
    stream = engine.stream(PROMPT, PARAMS)
    assert (await anext(stream)).token_ids == (1, 2, 3)
    with pytest.raises(EngineConnectionError, match="gone"):
        await anext(stream)
    assert engine.num_open == 0


async def test_a_list_is_used_up_or_begins_anew() -> None:
    engine = ScriptedEngine([RESPONSE])
    await drain(engine.stream(PROMPT, PARAMS))
    with pytest.raises(EngineError, match="holds 1 responses"):
        await drain(engine.stream(PROMPT, PARAMS))
    again = ScriptedEngine([RESPONSE], repeat=True)
    for _ in range(3):
        await drain(again.stream(PROMPT, PARAMS))


async def test_responses_may_go_by_prompt_or_by_call() -> None:
    other = ScriptedResponse(token_ids=(6,))
    by_prompt = ScriptedEngine({PROMPT: [RESPONSE], (1,): [other]})
    (chunk,) = await drain(by_prompt.stream((1,), PARAMS))
    assert chunk.token_ids == (6,)
    by_call = ScriptedEngine(lambda call: replace(other, token_ids=(call.params.seed,)))
    (chunk,) = await drain(by_call.stream((1,), replace(PARAMS, seed=42)))
    assert chunk.token_ids == (42,)


async def test_log_probabilities_are_given_if_asked_for() -> None:
    engine = ScriptedEngine([replace(RESPONSE, logprobs=(-1.0, -2.0, -3.0, -4.0, -5.0, -6.0))])
    params = replace(PARAMS, logprobs=True, checkpoints=(2,))
    chunks = await drain(engine.stream(PROMPT, params))
    assert [chunk.logprobs for chunk in chunks] == [(-1.0, -2.0), (-3.0, -4.0, -5.0, -6.0)]


async def evaluate(engine: ScriptedEngine, *response: int) -> tuple[float, ...]:
    answer = await engine.label_logprobs(PROMPT + response + QUESTION, (0, 1))
    return answer.logprobs


async def test_an_evaluation_finds_its_sample_by_its_tokens() -> None:
    engine = ScriptedEngine(
        [
            ScriptedResponse(
                token_ids=(1, 2, 3), label_logprobs={2: (-1.0, -2.0), 3: (-3.0, -4.0)}
            ),
            ScriptedResponse(token_ids=(1, 5, 6), label_logprobs=lambda n: (-float(n), 0.0)),
        ]
    )
    for _ in range(2):
        await drain(engine.stream(PROMPT, PARAMS))
    assert await evaluate(engine, 1, 2) == (-1.0, -2.0)
    assert await evaluate(engine, 1, 2, 3) == (-3.0, -4.0)
    assert await evaluate(engine, 1, 5) == (-2.0, 0.0)
    with pytest.raises(EngineRequestError, match="streamed"):
        await engine.label_logprobs((5, 5, 5), (0, 1))
    with pytest.raises(EngineResponseError, match="labels"):
        await engine.label_logprobs((*PROMPT, 1, 2, *QUESTION), (0, 1, 2))


async def test_samples_alike_are_evaluated_in_the_order_of_drawing() -> None:
    script = [replace(RESPONSE, label_logprobs=(-float(i), 0.0)) for i in range(3)]
    engine = ScriptedEngine(script)
    streams = [engine.stream(PROMPT, PARAMS) for _ in script]
    for stream in streams:
        await anext(stream)
    read = [await evaluate(engine, *RESPONSE.token_ids) for _ in script]
    assert [logprobs[0] for logprobs in read] == [0.0, -1.0, -2.0]
    for stream in streams:
        await stream.aclose()


async def test_an_evaluation_reuses_an_open_streams_cache() -> None:
    engine = ScriptedEngine([RESPONSE])
    stream = engine.stream(PROMPT, PARAMS)
    await anext(stream)
    token_ids = PROMPT + RESPONSE.token_ids + QUESTION
    live = await engine.label_logprobs(token_ids, (0, 1))
    await stream.aclose()
    cold = await engine.label_logprobs(token_ids, (0, 1))
    assert (live.computed_tokens, live.cached_tokens) == (2, 8)
    assert (cold.computed_tokens, cold.cached_tokens) == (10, 0)


async def test_the_last_token_of_an_unfinished_response_is_in_no_cache_yet() -> None:
    engine = ScriptedEngine([RESPONSE])
    stream = engine.stream(PROMPT, replace(PARAMS, checkpoints=(2,)))
    await anext(stream)
    token_ids = PROMPT + RESPONSE.token_ids[:2] + QUESTION
    live = await engine.label_logprobs(token_ids, (0, 1))
    assert live.cached_tokens == len(PROMPT) + 1
    assert live.computed_tokens == 1 + len(QUESTION)
    await stream.aclose()


async def test_an_engine_may_evaluate_finished_samples_only() -> None:
    engine = ScriptedEngine([RESPONSE], evaluates_mid_generation=False)
    stream = engine.stream(PROMPT, replace(PARAMS, checkpoints=(2,)))
    await anext(stream)
    with pytest.raises(EngineRequestError, match="mid-generation"):
        await evaluate(engine, 1, 2)
    await anext(stream)
    assert await evaluate(engine, *RESPONSE.token_ids)
    await stream.aclose()


async def test_labels_may_be_named() -> None:
    engine = ScriptedEngine([replace(RESPONSE, label_logprobs=(-1.0, -2.0))], label_ids=(5, 6))
    await drain(engine.stream(PROMPT, PARAMS))
    token_ids = PROMPT + RESPONSE.token_ids + QUESTION
    assert (await engine.label_logprobs(token_ids, (6, 5))).logprobs == (-2.0, -1.0)
    with pytest.raises(EngineResponseError):
        await engine.label_logprobs(token_ids, (6, 7))


def test_a_script_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="logprobs"):
        ScriptedResponse(token_ids=(1, 2), logprobs=(-1.0, -1.0))
    with pytest.raises(ConfigurationError, match="num_generated_tokens"):
        ScriptedResponse(token_ids=(1, 2), num_generated_tokens=1)
    with pytest.raises(ConfigurationError, match="prob_win_or_tie"):
        label_logprobs_of(1.5)


def test_the_chat_double_keeps_text() -> None:
    chat = ScriptedChat()
    prompt_ids = chat.prompt_ids(
        [Message(role="system", content="s"), Message(role="user", content="é")]
    )
    assert chat.decode(prompt_ids) == "sé"
    assert chat.decode(chat.follow_up_ids("Why?")) == "Why?"
    assert chat.end_token_ids <= set(prompt_ids)
    assert chat.first_token_id("No.") == ord("N")
    response = chat.response("ab", {1: 0.5, 2: 0.75})
    assert response.label_logprobs_at(2) == pytest.approx((math.log(0.75), math.log(0.25)))
