"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfeval_backend.errors import DatasetError

__all__ = ["put_in_place", "write_atomically", "writing"]


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turn a failure to write (a full disk, no permission) into an error that says so.

    Raises:
        DatasetError: Names what was written; what was finished before is kept.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(
            f"{what} cannot be written: {reason}. What was finished before is kept: "
            "make room, and start again."
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file.

    Raises:
        DatasetError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        put_in_place(partial, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a finished file, once its bytes are on the disk: a kill leaves all or nothing."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
