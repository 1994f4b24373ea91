"""Methods for real: answer many prompts by many methods, through one model, and compare them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from selfeval_backend.controller import derive_seed
from selfeval_backend.errors import ConfigurationError, EngineError
from selfeval_backend.evaluation.methods import BEST_OF_16, ONE_SAMPLE, Method
from selfeval_backend.evaluation.metrics import MethodReport, MethodRun, PromptResult, report
from selfeval_backend.evaluation.tasks import Task, TaskItem
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples.recorder import Progress
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.types import Sample

__all__ = ["compare", "run_live", "run_method"]


async def compare(
    model: SelfEvaluatingModel,
    items: Sequence[TaskItem],
    methods: Sequence[Method],
    *,
    seed: int,
    concurrency: int = 32,
    progress: Progress | None = None,
) -> tuple[MethodReport, ...]:
    """Run methods one after the other on the same prompts.

    A prompt has the same seed under every method, so that one sample is the first of Best-of-16.

    Args:
        model: Answers.
        items: Prompts with their verifiers, at least one.
        methods: "one sample" and "best-of-16" among them.
        seed: At least 0.
        concurrency: Prompts that are answered at once.
        progress: Told of every answered prompt.

    Returns:
        One row for each method, in order.

    Raises:
        EngineError: The engine failed; nothing is reported of a part.
        NoFinishedSampleError: A prompt was left without any answer.
    """
    runs = {}
    for method in methods:
        runs[method.name] = await run_method(
            model, items, method, seed=seed, concurrency=concurrency, progress=progress
        )
    return report(runs, one_sample=ONE_SAMPLE, best_of_n=BEST_OF_16)


async def run_method(
    model: SelfEvaluatingModel,
    items: Sequence[TaskItem],
    method: Method,
    *,
    seed: int,
    concurrency: int = 32,
    worst_reward: float = 0.0,
    progress: Progress | None = None,
) -> MethodRun:
    """Answer every prompt by one method; see `compare`.

    `worst_reward` counts where the scorer fails.

    Raises:
        ConfigurationError: The method looks at what a live run does not know.
    """
    if not _runs_live(method):
        raise ConfigurationError(
            "methods", method.name, "methods that need answers at most, with --live"
        )
    num_done = 0
    free = asyncio.Semaphore(concurrency)

    async def answer(place: int, item: TaskItem) -> PromptResult:
        nonlocal num_done
        async with free:
            result = await _answer(
                model, item, method, seed=derive_seed(seed, place), worst_reward=worst_reward
            )
        num_done += 1
        if progress is not None:
            progress(method.name, num_done, len(items))
        return result

    began = time.monotonic()
    tasks = [asyncio.create_task(answer(place, item)) for place, item in enumerate(items)]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return MethodRun(results=tuple(results), seconds=time.monotonic() - began)


def _runs_live(method: Method) -> bool:
    """Tell whether a method can be run for real: it looks at answers, and at nothing else."""
    return method.rival is None or method.rival.needs <= {"answer"}


async def run_live(
    model: SelfEvaluatingModel,
    task: Task,
    methods: Sequence[Method],
    *,
    seed: int,
    worst_reward: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, MethodRun]:
    """Run methods for real, with the seeds of a recording of the same seed.

    `worst_reward` counts where the scorer fails, as it does in that recording.

    Methods that look at more than answers cannot be run for real, and are left out.
    """
    return {
        method.name: await run_method(
            model, task.items, method, seed=seed, worst_reward=worst_reward, progress=progress
        )
        for method in methods
        if _runs_live(method)
    }


async def _answer(
    model: SelfEvaluatingModel, item: TaskItem, method: Method, *, seed: int, worst_reward: float
) -> PromptResult:
    def signals(sample: Sample) -> SampleRecord:
        text = _text(model, sample)
        assert sample.finish_reason is not None, "only what has finished has an answer"
        return SampleRecord(
            index=sample.index,
            temperature=sample.temperature,
            seed=sample.seed,
            token_ids=sample.token_ids,
            num_generated_tokens=sample.num_generated_tokens,
            finish_reason=sample.finish_reason,
            text=text,
            sum_logprob=None,
            answer=item.answer(text),
        )

    answer = await model.answer(
        list(item.messages),
        replace(method.settings, seed=seed),
        policy=method.policy(signals),
    )
    outcome = answer.outcome
    if outcome.stop_reason == "engine_error":
        raise EngineError(f"{method.name}: {item.prompt!r}: {outcome.trace.fault}")
    chosen: tuple[Sample, ...] = (outcome.best_sample,)
    if method.rival is not None:
        chosen = method.rival.select([s for s in outcome.samples if s.finished], signals)
    texts = [_text(model, sample) for sample in chosen]
    scored = [await asyncio.to_thread(item.judge, text) for text in texts]
    return PromptResult(
        reward=fmean(worst_reward if s.reward is None else s.reward for s in scored),
        error=next((s.error for s in scored if s.error is not None), None),
        num_samples=len(outcome.samples),
        generated_tokens=outcome.usage.generated_tokens,
        self_evaluation_tokens=outcome.usage.self_evaluation_tokens,
        response_characters=fmean(map(len, texts)),
    )


def _text(model: SelfEvaluatingModel, sample: Sample) -> str:
    return model.chat.decode(sample.token_ids).strip()
