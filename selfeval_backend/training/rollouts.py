"""Rollouts: on-policy samples of every prompt, through any engine, to Parquet shards.

A shard is the unit of work: its prompts are drawn together, and it is written once all of its
samples are there. So a kill loses one shard at most, and a shard is the same whenever it is drawn:
seeds come from the prompt, not from the order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from selfeval_backend.chat import Chat
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.training.base_model import (
    load_asking,
)
from selfeval_backend.training.pipeline import Progress
from selfeval_backend.training.prompts import Prompt, PromptSplit, stored_prompts
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.shards import (
    chunks_of,
    iterate_rows,
    shard_name,
    shards_of,
    write_rows,
)
from selfeval_backend.types import FinishReason

__all__ = [
    "ROLLOUT_SCHEMA",
    "Drawing",
    "PlannedDraw",
    "draw_rows",
    "draw_shards",
    "drawing_of",
    "planned_draws",
]

ROLLOUT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),
        ("answer", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("error", pa.string()),
        (
            "samples",
            pa.list_(
                pa.struct(
                    [
                        ("token_ids", pa.list_(pa.int32())),
                        ("text", pa.string()),
                        ("finish_reason", pa.string()),
                        ("temperature", pa.float64()),
                        ("sum_logprob", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)
"""One row a prompt; `error` says why it has no samples."""

_CONCURRENT_SAMPLES = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How samples are drawn."""

    chat: Chat
    question_length: int
    """Tokens kept free for the self-evaluation."""
    max_tokens: int
    top_p: float
    seed: int
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDraw:
    """One prompt, and the temperatures of its samples."""

    prompt: Prompt
    temperatures: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Prompts that are drawn together, into one file."""

    index: int
    draws: tuple[PlannedDraw, ...]


def planned_draws(recipe: Recipe, prompts: Path) -> Iterator[PlannedDraw]:
    """Yield what the base model draws: prompts to learn from, to watch, and to compare with after.

    Of test prompts, as many samples at temperature 1 as are drawn again after fine-tuning.
    """
    settings, after = recipe.rollouts, recipe.calibrate
    splits: tuple[PromptSplit, ...] = ("train", "validation", "test")
    num_test = 0
    for prompt in stored_prompts(prompts, splits):
        temperatures = (settings.temperature,) * settings.samples
        if prompt.split == "test":
            if num_test == after.max_test_prompts:
                continue
            num_test += 1
            temperatures = (1.0,) * after.samples
        yield PlannedDraw(prompt=prompt, temperatures=temperatures)


def drawing_of(recipe: Recipe) -> Drawing:
    """Return how a recipe's model is sampled."""
    asking = load_asking(recipe)
    return Drawing(
        chat=asking.chat,
        question_length=len(asking.evaluator.question_ids),
        max_tokens=recipe.rollouts.max_tokens,
        top_p=recipe.rollouts.top_p,
        top_k=recipe.rollouts.top_k,
        min_p=recipe.rollouts.min_p,
        repetition_penalty=recipe.rollouts.repetition_penalty,
        seed=recipe.seed,
    )


def draw_shards(
    draws: Callable[[], Iterator[PlannedDraw]],
    *,
    folder: Path,
    drawing: Drawing,
    open_engine: Callable[[], Engine],
    shard_prompts: int,
    name: str,
    progress: Progress,
) -> dict[str, Any]:
    """Draw every sample that is not in a finished shard.

    Args:
        draws: Yields what is to be drawn, the same each time.
        folder: Of the shards.
        drawing: How.
        open_engine: Starts the engine; not called where nothing is left to do.
        shard_prompts: Prompts of one shard.
        name: Of this, for progress.
        progress: Told of every prompt.

    Returns:
        Counts of prompts, samples, tokens and errors of all shards.

    Raises:
        EngineError: The engine failed; finished shards are kept.
        DatasetError: A shard cannot be written, or no prompt fits into the model's context.
    """
    total = sum(1 for _ in draws())
    done = {path.name for path in shards_of(folder)}

    def shards() -> Iterator[Shard]:
        for index, chunk in enumerate(chunks_of(draws(), shard_prompts)):
            yield Shard(index=index, draws=tuple(chunk))

    num_done = min(len(done) * shard_prompts, total)
    progress(name, num_done, total)
    if any(shard_name(s.index) not in done for s in shards()):
        asyncio.run(
            _draw_missing(
                shards(),
                done,
                folder,
                drawing,
                open_engine,
                _Counter(name, num_done, total, progress),
            )
        )
    return _count(folder)


class _Counter:
    def __init__(self, name: str, done: int, total: int, progress: Progress) -> None:
        self._name, self._done, self._total, self._progress = name, done, total, progress

    def add(self) -> None:
        self._done += 1
        self._progress(self._name, self._done, self._total)


async def _draw_missing(
    shards: Iterator[Shard],
    done: set[str],
    folder: Path,
    drawing: Drawing,
    open_engine: Callable[[], Engine],
    counter: _Counter,
) -> None:
    async with _opened(open_engine) as engine:
        for shard in shards:
            if shard_name(shard.index) not in done:
                rows = await draw_rows(shard.draws, engine, drawing, counter.add)
                write_rows(folder / shard_name(shard.index), rows, ROLLOUT_SCHEMA)


@asynccontextmanager
async def _opened(open_engine: Callable[[], Engine]) -> AsyncIterator[Engine]:
    engine = open_engine()
    try:
        yield engine
    finally:
        await engine.aclose()


async def draw_rows(
    draws: Sequence[PlannedDraw],
    engine: Engine,
    drawing: Drawing,
    on_prompt: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Draw the samples of some prompts together, and return rows of `ROLLOUT_SCHEMA`."""
    room = asyncio.Semaphore(_CONCURRENT_SAMPLES)

    async def roll(draw: PlannedDraw) -> dict[str, Any]:
        row = await _roll(draw, engine, drawing, room)
        on_prompt()
        return row

    return await _all(roll(draw) for draw in draws)


async def _all(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run jobs together; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _roll(
    draw: PlannedDraw, engine: Engine, drawing: Drawing, room: asyncio.Semaphore
) -> dict[str, Any]:
    prompt = draw.prompt
    row: dict[str, Any] = {
        "key": prompt.key,
        "split": prompt.split,
        "messages": json.dumps(
            [{"role": m.role, "content": m.content} for m in prompt.messages], ensure_ascii=False
        ),
        "answer": prompt.answer,
        "prompt_ids": [],
        "samples": [],
    }
    try:
        prompt_ids = drawing.chat.prompt_ids(prompt.messages)
    except ConfigurationError as error:  # the chat template refuses it
        return {**row, "error": str(error)}
    room_left = engine.capabilities.context_length - len(prompt_ids) - drawing.question_length
    if room_left < drawing.max_tokens:
        return {**row, "error": f"{len(prompt_ids)} prompt tokens leave room for {room_left}"}
    run_seed = derive_seed(drawing.seed, int(prompt.key, 16))
    samples = await _all(
        _sample(engine, drawing, prompt_ids, temperature, derive_seed(run_seed, k), room)
        for k, temperature in enumerate(draw.temperatures)
    )
    return {**row, "prompt_ids": prompt_ids, "samples": samples}


async def _sample(
    engine: Engine,
    drawing: Drawing,
    prompt_ids: tuple[int, ...],
    temperature: float,
    seed: int,
    room: asyncio.Semaphore,
) -> dict[str, Any]:
    params = SamplingParams(
        temperature=temperature,
        max_tokens=drawing.max_tokens,
        seed=seed,
        stop_token_ids=drawing.chat.end_token_ids,
        top_p=drawing.top_p,
        top_k=drawing.top_k,
        min_p=drawing.min_p,
        repetition_penalty=drawing.repetition_penalty,
        logprobs=True,
    )
    token_ids: list[int] = []
    logprob = 0.0
    reason: FinishReason = "length"
    async with room, aclosing(engine.stream(prompt_ids, params)) as stream:
        async for chunk in stream:
            token_ids += chunk.token_ids
            logprob += sum(chunk.logprobs or ())
            if chunk.finish_reason is not None:
                reason = chunk.finish_reason
                break
    return {
        "token_ids": token_ids,
        "text": drawing.chat.decode(token_ids).strip(),
        "finish_reason": reason,
        "temperature": temperature,
        "sum_logprob": logprob,
    }


def _count(folder: Path) -> dict[str, Any]:
    counts = {"prompts": 0, "samples": 0, "generated_tokens": 0, "errors": 0}
    first_error = None
    for row in iterate_rows(shards_of(folder), columns=["error", "samples"]):
        counts["prompts"] += 1
        counts["samples"] += len(row["samples"])
        counts["generated_tokens"] += sum(
            len(s["token_ids"]) + (s["finish_reason"] == "stop") for s in row["samples"]
        )
        if row["error"] is not None:
            counts["errors"] += 1
            first_error = first_error or row["error"]
    if not counts["samples"]:
        raise DatasetError(f"no prompt could be sampled: {first_error or 'there is none'}")
    return {**counts, **({"first_error": first_error} if first_error else {})}
