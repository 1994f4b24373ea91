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
from typing import Any

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.on_ray import Row, run_on_ray
from selfeval_backend.samples.recorder import Draw, Progress, Recorder
from selfeval_backend.samples.records import PromptRecord, RecordingInfo
from selfeval_backend.samples.shards import iterate_rows, shard_name
from selfeval_backend.samples.store import sample_files, write_samples

__all__ = ["Job", "fill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a folder is filled with; on Ray it is pickled."""

    info: RecordingInfo
    """What all samples share."""
    draws: Callable[[], Iterator[Draw]]
    """Yields what is drawn, the same each time."""
    open_recorder: Callable[[], Recorder]
    """Starts the engine that draws, and what asks it."""
    prompts_per_file: int
    kept: KeptSamples | None = None
    """Samples that are used before any is drawn."""

    def of_file(self, number: int) -> list[Draw]:
        """Return what is drawn into the file of a number."""
        start = number * self.prompts_per_file
        return list(islice(self.draws(), start, start + self.prompts_per_file))


def fill(
    job: Job, folder: Path, *, name: str, progress: Progress, ray_workers: int | None = None
) -> dict[str, Any]:
    """Make every file that is not there yet.

    Args:
        job: What is drawn.
        folder: Of the files.
        name: Of this, for progress.
        progress: Told of every prompt.
        ray_workers: Engines on a Ray cluster, each with a GPU where there are any; None: one in
            this process.

    Returns:
        Counts of prompts, samples, tokens and errors of all files.

    Raises:
        EngineError: The engine failed; finished files are kept.
        DatasetError: A file cannot be written, or no prompt fits into the model's context.
        MissingDependencyError: Ray is asked for and not installed.
    """
    total = sum(1 for _ in job.draws())
    size, done = job.prompts_per_file, {path.name for path in sample_files(folder)}
    missing = [i for i in range(-(-total // size)) if shard_name(i, "samples") not in done]
    num_done = 0

    def add(count: int = 1) -> None:
        nonlocal num_done
        num_done += count
        progress(name, num_done, total)

    add(min(len(done) * size, total))
    if missing and ray_workers is not None:
        parts = (job, folder.resolve())
        for row in run_on_ray(_FileMaker, parts, missing, workers=ray_workers):
            add(row["prompts"])
    elif missing:
        asyncio.run(_make(job, folder, missing, add))
    return _count(folder)


async def _make(job: Job, folder: Path, missing: Sequence[int], add: Callable[[], None]) -> None:
    maker = _FileMaker(job, folder)
    try:
        for number in missing:
            await maker.make(number, add)
    finally:
        await maker.aclose()


class _FileMaker:
    """Makes files, one at a time; an actor, on Ray.

    Its engine is started at the first draw: what is kept needs none.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._recorder: Recorder | None = None

    def __call__(self, row: Row) -> Row:
        """Make the file of a number; on Ray."""
        return {"prompts": asyncio.run(self.make(row["number"], lambda: None))}

    async def make(self, number: int, on_prompt: Callable[[], None]) -> int:
        """Make the file of a number, and return how many prompts it has."""
        draws, kept = self._job.of_file(number), self._job.kept
        records = [None if kept is None else kept.record(draw) for draw in draws]
        missing = [draw for draw, record in zip(draws, records, strict=True) if record is None]
        for _ in range(len(draws) - len(missing)):
            on_prompt()
        drawn = iter(await self._draw(missing, on_prompt))
        prompts = [next(drawn) if record is None else record for record in records]
        write_samples(self._folder, number, self._job.info, prompts)
        return len(prompts)

    async def _draw(
        self, draws: Sequence[Draw], on_prompt: Callable[[], None]
    ) -> list[PromptRecord]:
        if not draws:
            return []
        if self._recorder is None:
            self._recorder = self._job.open_recorder()
        return await self._recorder.draw(draws, keep_refused=True, on_prompt=on_prompt)

    async def aclose(self) -> None:
        """Close the engine."""
        if self._recorder is not None:
            await self._recorder.engine.aclose()


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
