"""How commands look: one console, one kind of table."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["console", "plain_table"]

_FILE_WIDTH = 120


def console() -> Console:
    """Return the console of stdout; in a file or a pipe, wide enough that no table is cut."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)


def plain_table() -> Table:
    """Return an empty table with a line under its head; a title of its own would be cut to it."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
