"""Make rollouts: on-policy samples, their rewards, and what the model says of their prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.reference.problems import Problem, reward
from selfeval_backend.rollouts import Rollout, RolloutSample
from selfeval_backend.training.branches import LabelledCut, Row, collate
from selfeval_backend.types import FinishReason

__all__ = ["sample_rollouts", "score_prefixes"]

Log = Callable[[str], None]

_CONCURRENT_SAMPLES = 256


async def sample_rollouts(
    problems: Iterable[Problem],
    *,
    engine: Engine,
    chat: ChatTemplate,
    temperatures: Sequence[float],
    max_tokens: int,
    seed: int,
    log: Log,
) -> list[Rollout]:
    """Sample every problem once at each temperature, and reward the responses.

    Args:
        problems: Prompts.
        engine: Of the model that is to evaluate itself.
        chat: Of the same model.
        temperatures: One for each sample.
        max_tokens: Of each sample.
        seed: Every sample's seed is derived from it.
        log: Told of progress.
    """
    room = asyncio.Semaphore(_CONCURRENT_SAMPLES)
    done = 0

    async def draw(
        problem: Problem, prompt_ids: tuple[int, ...], place: int, k: int
    ) -> RolloutSample:
        params = SamplingParams(
            temperature=temperatures[k],
            max_tokens=max_tokens,
            seed=derive_seed(seed, place * len(temperatures) + k),
            stop_token_ids=chat.end_token_ids,
            logprobs=True,
        )
        async with room:
            return await _draw(engine, chat, problem, prompt_ids, params)

    async def roll(place: int, problem: Problem) -> Rollout:
        nonlocal done
        prompt_ids = chat.prompt_ids([Message(role="user", content=problem.text)])
        samples = await asyncio.gather(
            *(draw(problem, prompt_ids, place, k) for k in range(len(temperatures)))
        )
        done += 1
        if done % 250 == 0:
            log(f"rollouts: {done} prompts")
        return Rollout(problem=problem, prompt_ids=prompt_ids, samples=tuple(samples))

    return list(await asyncio.gather(*(roll(i, p) for i, p in enumerate(problems))))


async def _draw(
    engine: Engine,
    chat: ChatTemplate,
    problem: Problem,
    prompt_ids: tuple[int, ...],
    params: SamplingParams,
) -> RolloutSample:
    token_ids: tuple[int, ...] = ()
    logprob = 0.0
    reason: FinishReason = "length"
    stream = engine.stream(prompt_ids, params)
    try:
        async for chunk in stream:
            token_ids += chunk.token_ids
            logprob += sum(chunk.logprobs or ())
            if chunk.finish_reason is not None:
                reason = chunk.finish_reason
                break
    finally:
        await stream.aclose()
    return RolloutSample(
        token_ids=token_ids,
        finish_reason=reason,
        temperature=params.temperature,
        reward=reward(problem, chat.decode(token_ids)),
        sum_logprob=logprob,
    )


@torch.inference_mode()
def score_prefixes(
    rollouts: Sequence[Rollout],
    model: Any,
    *,
    cuts: Callable[[RolloutSample], Sequence[int]],
    question_ids: tuple[int, ...],
    label_ids: tuple[int, int],
    pad_id: int,
    batch_size: int = 64,
) -> list[Rollout]:
    """Add what the model says of prefixes of its samples, in batches of branches.

    Args:
        rollouts: Of the same model.
        model: A transformers causal language model.
        cuts: Gives the prefix lengths to ask at; the whole response is always asked.
        question_ids: The question, tokenised.
        label_ids: Tokens of (win or tie, loss).
        pad_id: For padding.
        batch_size: Responses in one forward pass.
    """
    flat = [
        (i, k, sample, sorted({*cuts(sample), len(sample.token_ids)} - {0}))
        for i, rollout in enumerate(rollouts)
        for k, sample in enumerate(rollout.samples)
    ]
    flat.sort(key=lambda item: len(item[2].token_ids))
    scored: dict[tuple[int, int], RolloutSample] = {}
    for start in range(0, len(flat), batch_size):
        chunk = flat[start : start + batch_size]
        rows = [
            Row(
                prompt_ids=rollouts[i].prompt_ids,
                response_ids=sample.token_ids,
                cuts=tuple(LabelledCut(num_tokens=n, prob_win_or_tie=0.0) for n in places),
            )
            for i, _, sample, places in chunk
        ]
        batch = collate(rows, question_ids, pad_id=pad_id)
        hidden = model.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
        ).last_hidden_state[:, batch.label_positions()]
        logprobs = model.lm_head(hidden).log_softmax(-1)[..., list(label_ids)].tolist()  # [B, K, 2]
        for (i, k, sample, places), said in zip(chunk, logprobs, strict=True):
            answers = tuple(
                (n, a, b) for n, (a, b) in zip(places, said[: len(places)], strict=True)
            )
            scored[i, k] = replace(sample, label_logprobs=answers)
    return [
        replace(r, samples=tuple(scored[i, k] for k in range(len(r.samples))))
        for i, r in enumerate(rollouts)
    ]
