"""Stages one after the other: done once, gone on with where they stopped, done again when stale.

A stage works in a folder that is named after the fingerprint of its inputs: its part of the recipe,
and the content hashes of the files it reads. So a changed recipe makes a new folder and leaves the
old one as it was, and recipes that share their first stages share their work::

    prompts-1b7c.../   rollouts-90aa.../   rewards-44f1.../   ...
        stage.json     written last: fingerprint, inputs, the hash of every output, figures
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.files import check_folder, locked, read_json, write_atomically, writing
from selfeval_backend.hashing import Hasher, digest_of
from selfeval_backend.samples.recorder import Progress
from selfeval_backend.samples.recording import Log
from selfeval_backend.training.recipe import Recipe

__all__ = ["Manifest", "Pipeline", "Plan", "Stage", "StageState", "Workplace"]

_MANIFEST = "stage.json"
_SCRATCH = ("checkpoints", "tensorboard", "logs")
"""Folders of a stage that are no outputs: they differ where a run was stopped."""
_DISTRIBUTED = ("finetune",)
"""Stages that several processes do together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What a stage is given to work with."""

    recipe: Recipe
    folder: Path
    """The stage's own; what a stopped run left is still there."""
    upstream: Mapping[str, Path]
    """Folders of the stages that it needs, by name."""
    progress: Progress
    log: Log


class Stage(Protocol):
    """One step of the pipeline."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages whose outputs it reads."""
        ...

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return what decides its outputs beside those stages, in JSON types.

        Raises:
            ConfigurationError: The recipe cannot be carried out.
            ModelFilesError: A model that it reads cannot be found.
            DatasetError: Data that it reads cannot be found.
        """
        ...

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Return lines that say what it would do and cost; `upstream` has what is finished."""
        ...

    def run(self, place: Workplace) -> dict[str, Any]:
        """Do it, or what is left of it, and return figures for its manifest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    fingerprint: str
    inputs: dict[str, Any]
    outputs: dict[str, str]
    """SHA-256 of every file, by its path in the folder."""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float
    """Of the run that finished it."""

    @property
    def digest(self) -> str:
        """One hash of all outputs."""
        return digest_of(self.outputs)

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """Read a stage's manifest; None where the stage is not finished.

        Raises:
            DatasetError: It cannot be read, or an output is gone.
        """
        path = folder / _MANIFEST
        if not path.is_file():
            return None
        try:
            found = cls(**read_json(path, any_number=True))
        except DatasetError as error:
            raise DatasetError(f"{error} {_again(folder)}") from error
        except TypeError as error:
            raise DatasetError(f"{path} is no manifest: {error}. {_again(folder)}") from error
        gone = [name for name in found.outputs if not (folder / name).is_file()]
        if gone:
            raise DatasetError(f"{folder / gone[0]} is gone. {_again(folder)}")
        return found


def _again(folder: Path) -> str:
    return f"Remove {folder} to do the stage again."


StageState = Literal["finished", "begun", "new", "waits"]
"""finished: skipped; begun: goes on; new: done from the start; waits: for a stage before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where one stage stands."""

    stage: str
    state: StageState
    fingerprint: str | None
    """None while a stage before it is not finished."""
    folder: Path | None
    lines: tuple[str, ...]
    """What it would do; empty for a finished one."""


class Pipeline:
    """Runs the stages of one recipe.

    Args:
        recipe: What is made.
        stages: In order.
        progress: Told of every step within a stage.
        log: Told of every stage.
    """

    def __init__(
        self, recipe: Recipe, stages: Sequence[Stage], *, progress: Progress, log: Log
    ) -> None:
        self._recipe = recipe
        self._stages = {stage.name: stage for stage in stages}
        self._progress = progress
        self._log = log
        check_folder(recipe.folder)
        self._hasher = Hasher(recipe.folder / "hashes.json")

    def plan(self, until: str) -> list[Plan]:
        """Return where every stage up to `until` stands, without doing anything.

        Raises:
            ConfigurationError: There is no such stage.
        """
        plans = [self._plan(stage) for stage in self._up_to(until)]
        self._hasher.save()
        return plans

    def run(self, until: str) -> Path:
        """Do every stage up to `until` that is not finished, and return the folder of that one.

        Raises:
            ConfigurationError: There is no such stage, or another run works in the folder.
            AICError: Whatever the stages raise; what was finished is kept.
        """
        stages = self._up_to(until)
        with _locked(self._recipe.folder):
            for stage in stages:
                self._run(stage)
        return self.folder(until)

    def folder(self, name: str) -> Path:
        """Return the folder of a stage whose upstream is finished."""
        stage = self._stages[name]
        fingerprint, _ = self._fingerprint(stage)
        assert fingerprint is not None, f"{name} is asked for once its upstream is finished"
        return self._place(stage, fingerprint)

    def manifest(self, name: str) -> Manifest | None:
        """Return what a finished stage says of itself."""
        fingerprint, _ = self._fingerprint(self._stages[name])
        if fingerprint is None:
            return None
        return Manifest.load(self._place(self._stages[name], fingerprint))

    def _up_to(self, until: str) -> list[Stage]:
        if until not in self._stages:
            raise ConfigurationError("stage", until, f"one of {', '.join(self._stages)}")
        names = list(self._stages)
        return [self._stages[name] for name in names[: names.index(until) + 1]]

    def _place(self, stage: Stage, fingerprint: str) -> Path:
        return self._recipe.folder / f"{stage.name}-{fingerprint[:12]}"

    def _fingerprint(self, stage: Stage) -> tuple[str | None, dict[str, Any]]:
        """Hash a stage's inputs; None while one of them is not finished."""
        inputs = stage.inputs(self._recipe, self._hasher)
        for need in stage.needs:
            manifest = self.manifest(need)
            if manifest is None:
                return None, inputs
            inputs[f"outputs of {need}"] = manifest.digest
        return digest_of({"stage": stage.name, **inputs}), inputs

    def _plan(self, stage: Stage) -> Plan:
        fingerprint, _ = self._fingerprint(stage)
        folder = None if fingerprint is None else self._place(stage, fingerprint)
        state: StageState = "waits"
        if folder is not None:
            done = Manifest.load(folder) is not None
            state = "finished" if done else "begun" if folder.exists() else "new"
        lines = (
            () if state == "finished" else tuple(stage.plan(self._recipe, self._upstream(stage)))
        )
        return Plan(
            stage=stage.name, state=state, fingerprint=fingerprint, folder=folder, lines=lines
        )

    def _upstream(self, stage: Stage) -> dict[str, Path]:
        return {need: self.folder(need) for need in stage.needs if self.manifest(need) is not None}

    def _run(self, stage: Stage) -> None:
        fingerprint, inputs = self._fingerprint(stage)
        assert fingerprint is not None, "the stages before it are finished"
        folder = self._place(stage, fingerprint)
        if Manifest.load(folder) is not None:
            self._log(f"{stage.name}: finished before ({folder.name})")
            return
        if _num_processes() > 1 and stage.name not in _DISTRIBUTED:
            raise ConfigurationError(
                "stage",
                stage.name,
                f"in several processes, {', '.join(_DISTRIBUTED)} alone",
                remedy="Run this stage without a launcher.",
            )
        self._log(f"{stage.name}: {'goes on' if folder.exists() else 'begins'} ({folder.name})")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        figures = stage.run(
            Workplace(
                recipe=self._recipe,
                folder=folder,
                upstream=self._upstream(stage),
                progress=self._progress,
                log=self._log,
            )
        )
        if os.environ.get("RANK", "0") != "0":  # the first process of several writes
            return
        seconds = time.monotonic() - began
        manifest = {
            "stage": stage.name,
            "fingerprint": fingerprint,
            "inputs": inputs,
            "outputs": {name: self._hasher.file(folder / name) for name in _outputs(folder)},
            "figures": figures,
            "seconds": round(seconds, 1),
        }
        self._hasher.save()
        write_atomically(folder / _MANIFEST, json.dumps(manifest, indent=1, default=str) + "\n")
        self._log(f"{stage.name}: finished in {seconds:.0f} s")


def _outputs(folder: Path) -> list[str]:
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(
        path.as_posix()
        for path in files
        if path.parts[0] not in _SCRATCH and path.name != _MANIFEST and path.suffix != ".partial"
    )


def _num_processes() -> int:
    """How many a launcher started: torchrun and accelerate set this variable."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out; processes that one launcher started are one run."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with locked(folder):
        yield
