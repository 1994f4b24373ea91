"""Numbered Parquet files: append-only, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfeval_backend.errors import DatasetError, MissingDependencyError
from selfeval_backend.files import read_parquet, replacing, writing

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "chunks_of",
    "count_rows",
    "iterate_rows",
    "need_pyarrow",
    "shard_name",
    "shards_of",
    "write_rows",
]

Row = dict[str, Any]
T = TypeVar("T")


def need_pyarrow() -> Any:
    """Import pyarrow, which comes with an extra.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", extra="eval") from error
    return pyarrow


def chunks_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def shard_name(index: int, kind: str = "shard") -> str:
    """Return the file name of a shard; names sort in the order of their numbers."""
    return f"{kind}-{index:06d}.parquet"


def shards_of(folder: Path, kind: str = "shard") -> list[Path]:
    """Return the finished shards of a folder, in order."""
    return sorted(folder.glob(f"{kind}-*.parquet"))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write one shard; a kill leaves it out, never half of it.

    Raises:
        DatasetError: The disk is full, or the file cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = need_pyarrow()
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        table = arrow.Table.from_pylist(list(rows), schema=schema)
        arrow.parquet.write_table(table, partial, compression="zstd")


def iterate_rows(
    paths: Sequence[Path], *, columns: Sequence[str] | None = None, batch_size: int = 256
) -> Iterator[Row]:
    """Yield the rows of Parquet files in order, a few in memory at a time.

    Raises:
        DatasetError: A file cannot be read; names it.
    """
    for path in paths:
        yield from read_parquet(path, columns=columns, batch_size=batch_size)


def count_rows(paths: Sequence[Path]) -> int:
    """Return how many rows Parquet files have, without reading them.

    Raises:
        DatasetError: A file cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = need_pyarrow()
    try:
        return sum(arrow.parquet.ParquetFile(path).metadata.num_rows for path in paths)
    except (OSError, arrow.ArrowException) as error:
        raise DatasetError(f"Parquet files cannot be read: {error}") from error
