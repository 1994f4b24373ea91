"""What ``docs/results.md`` is made of: the recordings and runs that need the model.

Each is kept in a folder, and what is there is not made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures.beam_search import BeamSettings, beam_answer
from selfeval_backend.controller import derive_seed
from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.metrics import PromptResult
from selfeval_backend.evaluation.tasks import ReferenceTask, ShiftedTask, TaskItem
from selfeval_backend.files import read_json, write_json
from selfeval_backend.hashing import digest_of
from selfeval_backend.model import SelfEvaluatingModel, count_parameters
from selfeval_backend.samples.recorder import Progress, RecordingPlan, SignalReader
from selfeval_backend.samples.recording import Log, record
from selfeval_backend.samples.records import Recording
from selfeval_backend.samples.store import load_recording

__all__ = [
    "BEAMS",
    "CHECKPOINTS",
    "BeamRun",
    "Sizes",
    "load_beams",
    "load_capability",
    "make_missing",
    "record_capability",
]

CHECKPOINTS = (8, 16, 24, 32, 40, 44, 48, 56, 64, 80, 96, 128)

BEAMS = (
    BeamSettings(width=2, branch=2, step=24),
    BeamSettings(width=4, branch=2, step=24),
    BeamSettings(width=4, branch=2, step=48),
)
"""Searches that are tried; a response of the reference model has some 90 tokens."""

_CONCURRENCY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many prompts of each experiment."""

    reference: int = 750
    shifted: int = 150
    beam: int = 100
    """The first prompts of the reference recording."""
    capability: int = 300
    """The first prompts of the reference recording, with each other model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamRun:
    """One search on the first prompts of the reference task."""

    settings: BeamSettings
    results: tuple[PromptResult, ...]
    made_of: str | None = None
    """A hash of model, prompts, verifier and seed; None: made before that was noted."""


async def make_missing(
    model: SelfEvaluatingModel,
    folder: Path,
    sizes: Sizes,
    *,
    seed: int,
    signals: SignalReader | None,
    progress: Progress,
    log: Log = lambda _: None,
) -> None:
    """Make every recording and run that is not in the folder yet.

    Args:
        model: The reference model.
        folder: Gets ``reference/``, ``shifted/`` and ``beam.json``.
        sizes: Prompts of each.
        seed: Of everything.
        signals: Reads token signals.
        progress: Told of prompts.
        log: Told of what is there and cannot be used as it is.
    """
    plan = RecordingPlan(checkpoints=CHECKPOINTS, seed=seed)
    infos = [
        await record(
            model, task, plan, folder / task.name, signals=signals, progress=progress, log=log
        )
        for task in (
            ReferenceTask(sizes.reference, seed=seed),
            ShiftedTask(sizes.shifted, seed=seed),
        )
    ]
    items = ReferenceTask(sizes.reference, seed=seed).items[: sizes.beam]
    made_of = digest_of(
        [infos[0].model_files, seed, [[item.prompt, item.scored_by] for item in items]]
    )
    path = folder / "beam.json"
    done = {run.settings for run in _kept_beams(path, made_of, log=log)}
    for settings in BEAMS:
        if settings in done:
            continue
        results = await _search(model, items, settings, seed=seed, progress=progress)
        _append(path, BeamRun(settings=settings, results=tuple(results), made_of=made_of))


def _kept_beams(path: Path, made_of: str, *, log: Log) -> list[BeamRun]:
    """Return the searches of this model and these prompts, and forget the others."""
    runs = list(load_beams(path)) if path.is_file() else []
    kept = [run for run in runs if run.made_of in (None, made_of)]
    if len(kept) < len(runs):
        log(f"{len(runs) - len(kept)} searches in {path} are of another model or other prompts")
        _write(path, kept)
    return kept


async def record_capability(
    model: SelfEvaluatingModel,
    folder: Path,
    sizes: Sizes,
    *,
    seed: int,
    progress: Progress,
    log: Log = lambda _: None,
) -> None:
    """Record another model on the first reference problems, where that is not done yet.

    Args:
        model: Of more or less capability than the reference model.
        folder: Gets ``capability/`` with a folder named for the model's number of parameters.
        sizes: Prompts of each.
        seed: Of everything.
        progress: Told of prompts.
        log: Told of what is there and cannot be used as it is.

    Raises:
        DatasetError: That folder holds another model's recording.
    """
    await record(
        model,
        ReferenceTask(sizes.capability, seed=seed),
        RecordingPlan(checkpoints=CHECKPOINTS, seed=seed),
        folder / "capability" / str(count_parameters(model.name)),
        progress=progress,
        log=log,
    )


async def _search(
    model: SelfEvaluatingModel,
    items: Sequence[TaskItem],
    settings: BeamSettings,
    *,
    seed: int,
    progress: Progress,
) -> list[PromptResult]:
    room, num_done = asyncio.Semaphore(_CONCURRENCY), 0
    name = f"beam {settings.width}x{settings.branch}/{settings.step}"

    async def answer(place: int, item: TaskItem) -> PromptResult:
        nonlocal num_done
        async with room:
            result = await beam_answer(model, item, settings, seed=derive_seed(seed, place))
        num_done += 1
        progress(name, num_done, len(items))
        return result

    return list(await asyncio.gather(*(answer(i, item) for i, item in enumerate(items))))


def _append(path: Path, run: BeamRun) -> None:
    _write(path, [*(load_beams(path) if path.is_file() else ()), run])


def _write(path: Path, runs: Sequence[BeamRun]) -> None:
    write_json(path, [asdict(each) for each in runs])


def load_beams(path: Path) -> tuple[BeamRun, ...]:
    """Read the searches of a results folder.

    Raises:
        DatasetError: The file is not what `make_missing` writes.
    """
    try:
        return tuple(
            BeamRun(
                settings=BeamSettings(**run["settings"]),
                results=tuple(PromptResult(**result) for result in run["results"]),
                made_of=run.get("made_of"),
            )
            for run in read_json(path)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} holds no searches that can be read: {error}") from error


def load_capability(folder: Path) -> dict[int, Recording]:
    """Read the recordings of models of other capability, by number of parameters.

    Raises:
        DatasetError: A folder is not what `record_capability` makes.
    """
    found = {}
    for path in folder.iterdir():
        if not path.name.isdecimal():
            raise DatasetError(f"{path} is not named for a number of parameters")
        found[int(path.name)] = load_recording(path)
    return found
