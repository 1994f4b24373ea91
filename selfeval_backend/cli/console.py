"""How commands look, and how what they say gets out: one console, one kind of table, one writer.

Whatever the streams are: letters that they cannot take are replaced; a reader that goes away, or a
disk that is full, is an exit status and no traceback; what is said on stderr is said if it can be.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from selfeval_backend.files import finite, one_line

__all__ = [
    "FAILED",
    "READER_GONE",
    "REFUSED",
    "plain_table",
    "prepare_streams",
    "say",
    "show",
    "show_json",
    "show_table",
    "stdout_failed",
]

FAILED = 1
"""Exit status: the run failed in flight."""
REFUSED = 2
"""Exit status: the request cannot be carried out; no token was generated."""
READER_GONE = 141
"""Exit status: the reader of stdout is gone; shells use it for processes ended by SIGPIPE."""

_FILE_WIDTH = 120


def show(text: object = "") -> None:
    """Write a text and a line end to stdout.

    Raises:
        typer.Exit: Nothing more can be written there.
    """
    _write(f"{text}\n")


def show_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout; its letters are escaped where stdout cannot take them.

    Raises:
        typer.Exit: Nothing more can be written there.
    """
    body = json.dumps(finite(document), ensure_ascii=False, indent=1, allow_nan=False)
    try:
        body.encode(_encoding(sys.stdout))
    except UnicodeEncodeError:
        body = json.dumps(finite(document), indent=1, allow_nan=False)
    show(body)


def show_table(table: RenderableType) -> None:
    """Write what rich draws to stdout; in a file or a pipe, wide enough that no table is cut.

    Raises:
        typer.Exit: Nothing more can be written there.
    """
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    _write(drawn.get())


def say(text: str) -> None:
    """Write a line to stderr, if it can be written there."""
    with suppress(OSError, ValueError):  # closed; its reader went away
        sys.stderr.write(_encodable(text, sys.stderr) + "\n")
        sys.stderr.flush()


def plain_table() -> Table:
    """Return an empty table with a line under its head; a title of its own would be cut to it."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def prepare_streams() -> None:
    """Make this process's standard streams safe to use, whatever it was started with.

    A closed one gets the null device in its place, or a file that is opened later would have its
    number, and get what is meant for the stream.

    Raises:
        SystemExit: stdout is closed: what is paid for could not be shown.
    """
    has_stdout = sys.stdout is not None
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the end
    sys.stderr = _Forgiving(sys.stderr)
    if not has_stdout:
        say("aic: error: stdout is closed. Redirect it to a file, or to /dev/null.")
        raise SystemExit(REFUSED)


class _Forgiving(io.TextIOBase):
    """A stream whose failures are ignored: progress bars and libraries write to it too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only, as everywhere
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        return self._stream.errors


def _write(text: str) -> None:
    try:
        sys.stdout.write(_encodable(text, sys.stdout))
        sys.stdout.flush()
    except OSError as error:
        raise typer.Exit(stdout_failed(error)) from None


def stdout_failed(error: OSError) -> int:
    """Say that stdout takes no more, unless nobody reads it; return the exit status.

    What it still holds goes nowhere: Python would write it at its end, and fail again.
    """
    is_gone = isinstance(error, BrokenPipeError)
    if not is_gone:
        say(f"aic: error: stdout cannot be written: {one_line(error)}.")
    with suppress(OSError, ValueError):  # it is no file: in tests
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return READER_GONE if is_gone else FAILED


def _encodable(text: str, stream: TextIO) -> str:
    """Return a text with a question mark for every character that a stream cannot encode."""
    encoding = _encoding(stream)
    return text.encode(encoding, errors="replace").decode(encoding)


def _encoding(stream: TextIO) -> str:
    return stream.encoding or "utf-8"
