"""Examples as they were written, without those that are too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.shards import shard_name, write_rows
from selfeval_backend.training.examples import StoredExamples, half_and_whole
from selfeval_backend.training.preferences import EXAMPLE_SCHEMA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(2):
        rows = [
            {
                "prompt_id": f"{shard}{n}",
                "sample": n,
                "reward": float(n),
                "prompt_ids": [1, 2],
                "response_ids": list(range(10, 13 + 4 * n)),
                "cuts": [1, 3 + 4 * n],
                "targets": [0.0, 1.0],
            }
            for n in range(3)
        ]
        write_rows(tmp_path / shard_name(shard), rows, EXAMPLE_SCHEMA)
    return tmp_path


def test_rows_come_back_over_all_shards(folder: Path) -> None:
    stored = StoredExamples(folder, max_tokens=100)
    assert len(stored) == 6
    assert stored.lengths == [5, 9, 13, 5, 9, 13]
    assert stored.column("prompt_id") == ["00", "01", "02", "10", "11", "12"]
    (row,) = stored[4]
    assert row.response_ids == tuple(range(10, 17))
    assert [(cut.num_tokens, cut.prob_win_or_tie) for cut in row.cuts] == [(1, 0.0), (7, 1.0)]


def test_what_is_too_long_is_left_out_pairs_together(folder: Path) -> None:
    stored = StoredExamples(folder, max_tokens=9)
    assert (len(stored), stored.num_left_out) == (4, 2)
    assert stored.column("prompt_id") == ["00", "01", "10", "11"]
    pairs = StoredExamples(folder, rows_per_item=2, max_tokens=9)
    assert (len(pairs), pairs.num_left_out) == (1, 2)  # the others have a long row each
    assert [len(row.response_ids) for row in pairs[0]] == [3, 7]
    with pytest.raises(DatasetError, match="more than 4 tokens"):
        StoredExamples(folder, max_tokens=4)


def test_other_cuts_have_the_mean_label(folder: Path) -> None:
    (row,) = StoredExamples(folder, max_tokens=100, recut=half_and_whole)[1]
    assert [(cut.num_tokens, cut.prob_win_or_tie) for cut in row.cuts] == [(3, 0.5), (7, 0.5)]
    assert list(half_and_whole(1)) == [1]


def test_a_folder_without_shards_or_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no example"):
        StoredExamples(tmp_path, max_tokens=9)
    (tmp_path / shard_name(0)).write_bytes(b"no Parquet")
    with pytest.raises(DatasetError, match="cannot be read"):
        StoredExamples(tmp_path, max_tokens=9)
