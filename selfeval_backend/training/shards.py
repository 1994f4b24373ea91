"""Parquet shards: append-only, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_parquet, replacing

__all__ = [
    "chunks_of",
    "count_rows",
    "iterate_rows",
    "read_rows",
    "shard_name",
    "shards_of",
    "write_rows",
]

Row = dict[str, Any]
T = TypeVar("T")


def chunks_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def shard_name(index: int) -> str:
    """Return the file name of a shard; names sort in the order of their numbers."""
    return f"shard-{index:06d}.parquet"


def shards_of(folder: Path) -> list[Path]:
    """Return the finished shards of a folder, in order."""
    return sorted(folder.glob("shard-*.parquet"))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write one shard; a kill leaves it out, never half of it.

    Raises:
        DatasetError: The disk is full, or the file cannot be written.
    """
    with replacing(path) as partial:
        table = pa.Table.from_pylist(list(rows), schema=schema)
        pq.write_table(table, partial, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """Read one shard whole.

    Raises:
        DatasetError: It cannot be read.
    """
    return list(iterate_rows([path]))


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
    """
    try:
        return sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"Parquet files cannot be read: {error}") from error
