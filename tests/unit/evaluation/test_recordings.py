"""What is written is what is read, and what cannot be used is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.recordings import (
    Recording,
    SampleRecord,
    load_recording,
    read_shards,
    write_shard,
)
from tests.unit.evaluation.recorded import drawn_samples, info, recording, sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of one prompt each."""
    made = recording([sample(0, [0.5, 0.6])], [sample(0, [0.7], answer="a")])
    for place, prompt in enumerate(made.prompts):
        write_shard(tmp_path / f"rollouts-{place:06d}.parquet", made.info, [prompt])
    return tmp_path


def changed(path: Path, change: Mapping[str, Any]) -> None:
    """Write columns of a shard anew."""
    table = pq.read_table(path)
    for name, values in change.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(table, path)


@given(drawn_samples())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, samples: list[SampleRecord]
) -> None:
    path = tmp_path_factory.mktemp("recording")
    made = recording(samples)

    write_shard(path / "rollouts-0.parquet", made.info, made.prompts)
    read = load_recording(path)

    assert read.info == made.info
    (prompt,), (before,) = read.prompts, made.prompts
    assert (prompt.prompt_id, prompt.prompt_ids) == (before.prompt_id, before.prompt_ids)
    for mine, theirs in zip(prompt.samples, before.samples, strict=True):
        assert mine.token_confidences == pytest.approx(theirs.token_confidences)  # float32
        for name in set(SampleRecord.__slots__) - {"token_confidences"}:
            assert getattr(mine, name) == getattr(theirs, name), name


def test_shards_are_read_in_order(folder: Path) -> None:
    read = load_recording(folder)

    assert [prompt.prompt_id for prompt in read.prompts] == ["p0", "p1"]
    assert [len(shard.prompts) for shard in read_shards(folder)] == [1, 1]
    assert [p.prompt_id for p in read.part([1]).prompts] == ["p1"]
    assert not list(folder.glob("*.partial"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no recording there .* aic eval --out"):
        load_recording(tmp_path)


def test_models_do_not_mix(folder: Path) -> None:
    made: Recording = recording([sample(0, [0.5])])
    write_shard(folder / "rollouts-9.parquet", info(model="another"), made.prompts)

    with pytest.raises(DatasetError, match=r"differ in model \('nobody' and 'another'\)"):
        load_recording(folder)


def test_a_prompt_that_comes_twice_is_refused(folder: Path) -> None:
    made = recording([sample(0, [0.5])])
    write_shard(folder / "rollouts-9.parquet", made.info, made.prompts)

    with pytest.raises(DatasetError, match=r"rollouts-9.parquet: prompt 'p0' is in another shard"):
        load_recording(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [float("nan")]}, "row 0: reward is nan, expected a finite number"),
        ({"reward": [float("inf")]}, "row 0: reward is inf"),
        ({"reward": [None]}, "row 0: reward is null"),
        ({"finish_reason": ["tired"]}, "row 0: finish_reason is 'tired'"),
        ({"num_generated_tokens": [0]}, "row 0: num_generated_tokens is 0, with 2 token_ids"),
    ],
)
def test_a_bad_row_is_named(folder: Path, change: Mapping[str, Any], message: str) -> None:
    path = folder / "rollouts-000000.parquet"
    changed(path, change)

    with pytest.raises(DatasetError, match=rf"000000.parquet, {message}"):
        load_recording(folder)


def test_missing_columns_are_named(folder: Path) -> None:
    path = folder / "rollouts-000001.parquet"
    pq.write_table(pq.read_table(path).drop(["reward", "seed"]), path)

    with pytest.raises(DatasetError, match=r"000001.parquet lacks the columns seed, reward"):
        load_recording(folder)


def test_what_is_no_recording_is_refused(folder: Path) -> None:
    path = folder / "rollouts-000001.parquet"
    table = pq.read_table(path)

    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DatasetError, match="lacks the schema metadata 'aic_recording'"):
        load_recording(folder)

    pq.write_table(table.replace_schema_metadata({"aic_recording": '{"version": 1}'}), path)
    with pytest.raises(DatasetError, match=r"aic_recording.task: Field required"):
        load_recording(folder)

    path.write_bytes(b"no Parquet")
    with pytest.raises(DatasetError, match="no Parquet file that can be read"):
        load_recording(folder)
