"""Live progress on stderr: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selfeval_backend.cli.console import say
from selfeval_backend.samples.recorder import Progress

__all__ = ["live_progress"]

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def live_progress() -> Iterator[Progress]:
    """Yield what is to be told of every answered prompt."""
    if sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.text import Text

    class Rate(rich_progress.ProgressColumn):
        """How many a second."""

        def render(self, task: rich_progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g} a second")

    columns = (
        rich_progress.TextColumn("{task.description:<17}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        Rate(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, rich_progress.TaskID] = {}

        def show(method: str, num_done: int, total: int) -> None:
            if method not in tasks:
                tasks[method] = bars.add_task(method, total=total)
            bars.update(tasks[method], completed=num_done)

        yield show


def _lines() -> Progress:
    began = said = time.monotonic()
    starts: dict[str, tuple[float, int]] = {}

    def show(method: str, num_done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        since, done_then = starts.setdefault(method, (now, num_done))
        if num_done == total or now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            pace = _pace(num_done - done_then, now - since, total - num_done)
            say(f"{now - began:5.0f} s  {method}: {num_done} of {total}{pace}")

    return show


def _pace(num_done: int, seconds: float, num_left: int) -> str:
    """Say how fast it goes and how long it takes, once there is something to tell it by."""
    if num_done == 0 or seconds < 1.0 or num_left == 0:
        return ""
    rate = num_done / seconds
    return f", {rate:.3g} a second, {num_left / rate:.0f} s left"
