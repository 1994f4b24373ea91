r"""The one place where files are read and written: text, JSON, CSV, Parquet; whole or not there.

Text is UTF-8, with or without a byte order mark. A line ends at ``\n`` (or ``\r\n``) alone: the
other line ends of Unicode may stand within a JSON string. What cannot be meant is refused with file
and line: another encoding, half of a surrogate pair, a key that comes twice, NaN, a number too long
to be read.

What is written stands beside its place under a name that is this process's own, and is renamed into
it once it is on the disk. A link is replaced, never written through: what it points to may be
shared (a hub's cache keeps every file once, under its hash).
"""

from __future__ import annotations

import codecs
import csv
import errno
import json
import math
import os
import secrets
import shutil
import socket
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from selfeval_backend.errors import ConfigurationError, DatasetError, MissingDependencyError

__all__ = [
    "UNFINISHED",
    "check_can_write",
    "check_folder",
    "finite",
    "is_whole_text",
    "locked",
    "one_line",
    "parse_json",
    "put_in_place",
    "read_csv",
    "read_json",
    "read_json_lines",
    "read_parquet",
    "read_text",
    "remove_folder",
    "remove_unfinished",
    "replacing",
    "replacing_folder",
    "write_atomically",
    "write_json",
    "write_json_lines",
    "writing",
]

_SAVE_AS_UTF8 = "Save it as UTF-8."
_JSON_SPACE = " \t\r\n"
_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
UNFINISHED = ".partial"
"""Ends the names of files and folders that are not whole; whoever meets one looks away."""

_LOCK = "lock"
_HOLDER = "lock.holder"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What a file system says that cannot lock."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def one_line(error: BaseException) -> str:
    """Return the first line of an error; its kind where it says nothing."""
    said = error.strerror if isinstance(error, OSError) else None
    lines = (said or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_whole_text(text: str) -> bool:
    """Tell whether a text holds no half of a surrogate pair, which is no character."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


# Reading


def read_text(path: Path) -> str:
    r"""Return the text of a file, with ``\n`` for its line ends.

    Raises:
        DatasetError: It cannot be read, or is no UTF-8; names file and line.
    """
    return "\n".join(_lines(path))


def read_json(path: Path, *, any_number: bool = False) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        any_number: Whether NaN and Infinity are numbers: in files of our own they are.

    Raises:
        DatasetError: It cannot be read, or is no JSON.
    """
    return parse_json(read_text(path), str(path), any_number=any_number)


def read_json_lines(
    path: Path, *, any_number: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a file of JSON lines, a line in memory at a time.

    Args:
        path: The file.
        any_number: Whether NaN and Infinity are numbers: in files of our own they are.

    Raises:
        DatasetError: It cannot be read, or a line is no JSON object; names file and line.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip(_JSON_SPACE):
            continue
        where = f"{path}, line {number}"
        row = parse_json(line, where, any_number=any_number, in_line=True)
        if not isinstance(row, dict):
            raise DatasetError(f"{where}: expected a JSON object. Write one a line.")
        yield number, row


def parse_json(text: str, where: str, *, any_number: bool = False, in_line: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        text: It.
        where: Names it in errors.
        any_number: Whether NaN and Infinity are numbers.
        in_line: Whether `where` names the line.

    Raises:
        DatasetError: It is no JSON, or holds what cannot be meant.
    """

    def refuse(what: str) -> NoReturn:
        raise DatasetError(f"{where}: {what}")

    def number(digits: str, kind: Callable[[str], float]) -> float:
        try:
            value = kind(digits)
        except ValueError:  # Python reads no longer ones, as that would take long
            refuse(f"a number of {len(digits):,} digits. Write it as text, in quotes.")
        if not any_number and math.isinf(value if isinstance(value, float) else 0.0):
            refuse(f"the number {digits[:40]} is too large. Write it as text, in quotes.")
        return value

    def constant(name: str) -> float:
        if not any_number:
            refuse(f"{name} is no number of JSON. Write null, or leave it out.")
        return float(name)

    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            refuse(f"the key {twice!r} comes twice. Remove one.")
        return found

    try:
        value = json.loads(
            text,
            parse_int=lambda digits: number(digits, int),
            parse_float=lambda digits: number(digits, float),
            parse_constant=constant,
            object_pairs_hook=once_each,
        )
        whole = "\\" not in text or is_whole_text(json.dumps(value, ensure_ascii=False))
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if in_line else f"line {error.lineno} column {error.colno}"
        raise DatasetError(f"{where}: no JSON: {error.msg} ({place})") from error
    except RecursionError:
        raise DatasetError(f"{where}: values stand within each other too deeply") from None
    if not whole:
        refuse(
            "half of a surrogate pair (\\ud800 to \\udfff), which is no character. "
            "Write both halves, or remove it."
        )
    return value


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, whose first line names the columns.

    Raises:
        DatasetError: It cannot be read, or a row does not fit the columns; names file and line.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            head = next(rows, [])
            _refuse_nul(path, rows.line_num, head)
            if len(set(head)) < len(head):
                twice = next(name for name in head if head.count(name) > 1)
                raise DatasetError(f"{path}: the column {twice!r} comes twice. Rename one.")
            for row in rows:
                if not row:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(head):
                    raise DatasetError(
                        f"{where}: {len(row)} fields under {len(head)} columns. "
                        "Put fields with commas, quotes or line ends in quotes."
                    )
                _refuse_nul(path, rows.line_num, row)
                yield dict(zip(head, row, strict=True))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {one_line(error)}") from error
    except UnicodeDecodeError:
        for _ in _lines(path):  # names the line
            pass
        raise
    except csv.Error as error:
        raise DatasetError(f"{path}, line {rows.line_num}: no CSV: {error}") from error


def read_parquet(
    path: Path, *, columns: Sequence[str] | None = None, batch_size: int = 256
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, a few in memory at a time.

    Raises:
        DatasetError: It cannot be read; names it.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError("pyarrow", extra="eval") from error
    names = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_size, columns=names):
                yield from batch.to_pylist()
    # Text that is no UTF-8, and dates that Python does not have, are errors of values.
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        raise DatasetError(f"{path} cannot be read: {one_line(error)}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file without their ends, one in memory at a time."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _decoded(path, number, line)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {one_line(error)}") from error


def _decoded(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        for mark, name in _OTHER_ENCODINGS:
            if line.startswith(mark):
                raise DatasetError(f"{path} is {name}, not UTF-8. {_SAVE_AS_UTF8}")
        line = line.removeprefix(codecs.BOM_UTF8)
    _refuse_nul(path, number, [line.decode("latin-1")])
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte {line[error.start]:#04x} at place {error.start + 1}"
        raise DatasetError(f"{path}, line {number}: {what} is no UTF-8. {_SAVE_AS_UTF8}") from error
    return text.removesuffix("\n").removesuffix("\r")


def _refuse_nul(path: Path, number: int, texts: Iterable[str]) -> None:
    if any("\0" in text for text in texts):
        what = "a NUL byte: it is UTF-16, or no text at all"
        raise DatasetError(f"{path}, line {number}: {what}. {_SAVE_AS_UTF8}")


# Writing


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turn a failure to write (a full disk, no permission) into an error that says so.

    Raises:
        DatasetError: Names what was written; what was finished before is kept.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{what} cannot be written: its text holds half of a surrogate pair, which is no "
            "character. What was finished before is kept."
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{what} cannot be written: {one_line(error)}. What was finished before is kept: "
            f"{_remedy(error)}."
        ) from error


def _remedy(error: OSError) -> str:
    if error.errno in _FULL:
        return "make room, and start again"
    if error.errno in _NOT_ALLOWED:
        return "allow it, or choose another place"
    return "choose another place"


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file.

    Raises:
        DatasetError: It cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file; null stands for what is no number, as JSON has none.

    Raises:
        DatasetError: It cannot be written.
    """
    body = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    write_atomically(path, body + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line; numbers that JSON does not have are written all the same.

    Raises:
        DatasetError: It cannot be written.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def finite(value: Any) -> Any:
    """Return JSON values with null for what is no number: of one prompt there is no error."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end takes the place of the file at `path`.

    Its permissions are the former file's. Nothing of a failed attempt is left behind.

    Raises:
        DatasetError: It cannot be written; the former file is as it was.
    """
    partial = _partial(path)
    try:
        with writing(path):
            yield partial
            _keep_permissions(path, partial)
            put_in_place(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _partial(path: Path) -> Path:
    """Return a name beside a file that no other process and no other thread uses."""
    return path.with_name(f"{path.name[:180]}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}")


def _keep_permissions(former: Path, fresh: Path) -> None:
    try:
        facts = former.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(facts.st_mode):  # a link has none of its own
        fresh.chmod(stat.S_IMODE(facts.st_mode))
        with suppress(OSError):  # only root may give files away
            os.chown(fresh, facts.st_uid, facts.st_gid)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a finished file, once its bytes are on the disk: a kill leaves all or nothing."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # some network file systems cannot; what was renamed is so all the same
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to; at the end it takes the place of the one at `path`.

    Nothing of a failed attempt is left behind.

    Raises:
        DatasetError: It cannot be written; the former folder is as it was.
    """
    fresh = _partial(path)
    try:
        with writing(path):
            fresh.mkdir()
            yield fresh
            for file in fresh.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            _sync_folder(fresh)
            remove_folder(path)
            fresh.rename(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it, if it is there; from the first moment it is gone as a whole.

    Raises:
        DatasetError: It cannot be removed.
    """
    gone = _partial(path)
    with writing(path):
        try:
            path.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed has left unfinished in a folder.

    Nobody else may be working there: see `locked`.
    """
    for path in folder.glob(f"*{UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_can_write(path: Path) -> None:
    """Make sure that a file can be written, before what it will hold is paid for.

    Raises:
        DatasetError: It cannot.
    """
    check_folder(path.parent)
    with writing(path):
        is_folder = path.is_dir()
    if is_folder:
        raise DatasetError(f"{path} cannot be written: it is a folder. Choose another place.")


def check_folder(folder: Path) -> None:
    """Make a folder if it is not there, and make sure that files can be written in it.

    Raises:
        DatasetError: They cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = _partial(folder / "probe")
        try:
            probe.write_text("This file may be removed.\n", encoding="utf-8")
        finally:
            with suppress(OSError):
                probe.unlink()


@contextmanager
def locked(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock ends with the process, however.

    The file ``lock`` stays there. Where the file system has no locks (some network folders), a
    warning says so, and nobody is kept out.

    Args:
        folder: It.
        waits: Whether to wait for a process that works there.

    Raises:
        ConfigurationError: Another process works there, and is not waited for; says which.
        DatasetError: Nothing can be written there.
        MissingDependencyError: filelock is not installed.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise MissingDependencyError("filelock", extra="eval") from error
    check_folder(folder)
    lock = FileLock(folder / _LOCK, timeout=-1 if waits else 0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigurationError(
            "folder",
            str(folder),
            f"a folder in which no other run works ({_holder(folder)} does)",
            remedy="Wait for it to end, or choose another folder.",
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise DatasetError(f"{folder / _LOCK} cannot be locked: {one_line(error)}") from error
        warnings.warn(
            f"{folder}: its file system has no locks. Make sure that no other run works there.",
            stacklevel=3,
        )
        yield
        return
    with suppress(OSError):  # it only helps to say who it is
        _tell_holder(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / _HOLDER).unlink()
        lock.release()


def _tell_holder(folder: Path) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    who = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
    (folder / _HOLDER).write_text(who, encoding="utf-8")


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
