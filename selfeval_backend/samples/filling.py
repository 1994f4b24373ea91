"""A folder is filled with samples, file by file: in this process, or on Ray.

A file is the unit of work: its prompts are drawn together, and it is written once all of its
samples are there. So a kill loses one file at most, and a file is the same whenever, wherever and
after whatever it is drawn: seeds come from the prompt, not from the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from selfeval_backend.chat import Chat
from selfeval_backend.engine.base import Engine
from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.on_ray import Row, run_on_ray
from selfeval_backend.samples.recorder import Draw, Progress, Recorder
from selfeval_backend.samples.records import PromptRecord, RecordingInfo, key_of
from selfeval_backend.samples.shards import iterate_rows, shard_name
from selfeval_backend.samples.store import sample_files, write_samples
from selfeval_backend.selfeval import SelfEvaluator

__all__ = ["Job", "fill"]


class Job(Protocol):
    """What a folder is filled with; it can be pickled, so that other machines can do it."""

    @property
    def info(self) -> RecordingInfo:
        """What all samples share."""
        ...

    @property
    def prompts_per_file(self) -> int:
        """How many are drawn together."""
        ...

    @property
    def kept(self) -> KeptSamples | None:
        """Samples that are used before any is drawn."""
        ...

    @property
    def chat(self) -> Chat:
        """How the model is spoken to."""
        ...

    @property
    def evaluator(self) -> SelfEvaluator:
        """Its self-evaluation, which is given room in the context."""
        ...

    def draws(self) -> Iterator[Draw]:
        """Yield what is drawn, the same each time."""
        ...

    def open_engine(self) -> Engine:
        """Start the engine that draws."""
        ...


def fill(
    job: Job, folder: Path, *, name: str, progress: Progress, ray_workers: int | None = None
) -> dict[str, Any]:
    """Make every file that is not there yet.

    Args:
        job: What is drawn.
        folder: Of the files.
        name: Of this, for progress.
        progress: Told of every prompt.
        ray_workers: Engines on a Ray cluster; None: one in this process.

    Returns:
        Counts of prompts, samples, tokens and errors of all files.

    Raises:
        EngineError: The engine failed; finished files are kept.
        DatasetError: A file cannot be written, or no prompt fits into the model's context.
        MissingDependencyError: Ray is asked for and not installed.
    """
    total = sum(1 for _ in job.draws())
    size = job.prompts_per_file
    done = {path.name for path in sample_files(folder)}
    missing = [i for i in range(-(-total // size)) if shard_name(i, "samples") not in done]
    counter = _Counter(name=name, total=total, progress=progress)
    counter.add(min(len(done) * size, total))
    if missing and ray_workers is not None:
        arguments = (job, folder.resolve())
        for row in run_on_ray(_FileMaker, arguments, missing, workers=ray_workers):
            counter.add(row["prompts"])
    elif missing:
        asyncio.run(_fill_missing(job, folder, missing, counter))
    return _count(folder)


@dataclass(slots=True, kw_only=True)
class _Counter:
    name: str
    total: int
    progress: Progress
    done: int = 0

    def add(self, count: int = 1) -> None:
        self.done += count
        self.progress(self.name, self.done, self.total)


async def _fill_missing(job: Job, folder: Path, missing: Sequence[int], counter: _Counter) -> None:
    maker = _FileMaker(job, folder)
    try:
        for number in missing:
            await maker.make(number, counter.add)
    finally:
        await maker.aclose()


class _FileMaker:
    """Makes files, one at a time; an actor, on Ray.

    Its engine is started at the first draw: what is kept needs none.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._engine: Engine | None = None

    def __call__(self, row: Row) -> Row:
        """Make the file of a number; on Ray."""
        return {"prompts": asyncio.run(self.make(row["number"], lambda: None))}

    async def make(self, number: int, on_prompt: Callable[[], None]) -> int:
        """Make the file of a number, and return how many prompts it has."""
        size = self._job.prompts_per_file
        draws = list(islice(self._job.draws(), number * size, (number + 1) * size))
        records = [_kept(self._job, draw) for draw in draws]
        for record in records:
            if record is not None:
                on_prompt()
        missing = [draw for draw, record in zip(draws, records, strict=True) if record is None]
        drawn = iter(await self._draw(missing, on_prompt))
        prompts = [next(drawn) if record is None else record for record in records]
        write_samples(self._folder, number, self._job.info, prompts)
        return len(prompts)

    async def _draw(
        self, draws: Sequence[Draw], on_prompt: Callable[[], None]
    ) -> list[PromptRecord]:
        if not draws:
            return []
        if self._engine is None:
            self._engine = self._job.open_engine()
        job = self._job
        recorder = Recorder(engine=self._engine, chat=job.chat, evaluator=job.evaluator)
        return await recorder.draw(draws, keep_refused=True, on_prompt=on_prompt)

    async def aclose(self) -> None:
        """Close the engine."""
        if self._engine is not None:
            await self._engine.aclose()


def _kept(job: Job, draw: Draw) -> PromptRecord | None:
    """Return samples that are there already as if they had been drawn; None: there are none."""
    if job.kept is None:
        return None
    try:
        prompt_ids = job.chat.prompt_ids(draw.prompt.messages)
    except ConfigurationError:
        return None  # the recorder says why
    samples = job.kept.samples(prompt_ids, draw.plan)
    if samples is None:
        return None
    return PromptRecord(
        key=key_of(prompt_ids, draw.seed),
        prompt_id=draw.prompt.prompt_id,
        messages=draw.prompt.messages,
        prompt_ids=prompt_ids,
        samples=samples,
        split=draw.prompt.split,
        reference=draw.prompt.answer,
    )


def _count(folder: Path) -> dict[str, Any]:
    counts = {"prompts": 0, "samples": 0, "generated_tokens": 0, "errors": 0}
    first_error = None
    for row in iterate_rows(sample_files(folder), columns=["error", "samples"]):
        counts["prompts"] += 1
        counts["samples"] += len(row["samples"])
        counts["generated_tokens"] += sum(s["num_generated_tokens"] for s in row["samples"])
        if row["error"] is not None:
            counts["errors"] += 1
            first_error = first_error or row["error"]
    if not counts["samples"]:
        raise DatasetError(f"no prompt could be sampled: {first_error or 'there is none'}")
    return {**counts, **({"first_error": first_error} if first_error else {})}
