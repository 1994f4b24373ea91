"""Examples as the preferences stage wrote them, read as the trainer wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.shards import shards_of
from selfeval_backend.training.branches import LabelledCut, Row
from selfeval_backend.training.trainer import Examples, Item

__all__ = ["StoredExamples", "half_and_whole"]

Recut = Callable[[int], Sequence[int]]
"""From the tokens of a response to the cuts that are asked about."""


def half_and_whole(num_tokens: int) -> Sequence[int]:
    """Ask at half of a response, and about the whole; a `Recut`."""
    return sorted({max(num_tokens // 2, 1), num_tokens})


class StoredExamples(Examples):
    """Rows of a folder of shards, as Arrow columns: a quarter of the memory of Python's integers.

    Args:
        folder: Of the shards.
        rows_per_item: 2 where two rows each are a pair.
        max_tokens: Of prompt and response; items with a longer row are left out.
        recut: Other cuts than those that are stored, with the mean target.

    Raises:
        DatasetError: Nothing is left, or a file cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows_per_item: int = 1,
        max_tokens: int,
        recut: Recut | None = None,
    ) -> None:
        try:
            tables = [pq.read_table(path) for path in shards_of(folder)]
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{folder} cannot be read: {error}") from error
        if not tables:
            raise DatasetError(f"{folder} has no example")
        self._table = pa.concat_tables(tables).combine_chunks()
        self._rows_per_item, self._recut = rows_per_item, recut
        sizes = pc.add(
            pc.list_value_length(self._table["prompt_ids"]),
            pc.list_value_length(self._table["response_ids"]),
        ).to_pylist()
        items = [
            (place, sizes[place : place + rows_per_item])
            for place in range(0, len(sizes), rows_per_item)
        ]
        self._places = [place for place, mine in items if max(mine) <= max_tokens]
        self._lengths = [sum(mine) for _, mine in items if max(mine) <= max_tokens]
        self.num_left_out = len(items) - len(self._places)
        """Items that were too long."""
        if not self._places:
            raise DatasetError(f"all examples of {folder} have more than {max_tokens} tokens")

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each item."""
        return self._lengths

    @property
    def longest(self) -> int:
        """Tokens of the longest item's rows together."""
        return int(max(self._lengths))

    def __getitem__(self, place: int) -> Item:
        """Return one item."""
        some = self._table.slice(self._places[place], self._rows_per_item)
        return tuple(self._row(row) for row in some.to_pylist())

    def _row(self, row: dict[str, list[int]]) -> Row:
        targets: Sequence[float] = row["targets"]
        cuts: Sequence[int] = row["cuts"]
        if self._recut is not None:
            cuts = self._recut(max(cuts))
            targets = [sum(targets) / len(targets)] * len(cuts)
        return Row(
            prompt_ids=tuple(row["prompt_ids"]),
            response_ids=tuple(row["response_ids"]),
            cuts=tuple(
                LabelledCut(num_tokens=n, prob_win_or_tie=target)
                for n, target in zip(cuts, targets, strict=True)
            ),
        )

    def column(self, name: str) -> list[object]:
        """Return a stored column, in the order of the items; for items of one row."""
        values: list[object] = self._table[name].take(pa.array(self._places)).to_pylist()
        return values
