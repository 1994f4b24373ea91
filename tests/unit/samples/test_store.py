"""What is written is what is read, and what cannot be used is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.records import PromptRecord, Recording, SampleRecord
from selfeval_backend.samples.store import (
    load_recording,
    read_samples,
    rewarded,
    sample_files,
    save_recording,
    write_listing,
    write_rewards,
    write_samples,
)
from tests.unit.samples.recorded import drawn_samples, info, recording, sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of one prompt each."""
    made = recording([sample(0, [0.5, 0.6])], [sample(0, [0.7], answer="a")])
    for place, prompt in enumerate(made.prompts):
        write_samples(tmp_path, place, made.info, [prompt])
        write_rewards(tmp_path, place, [prompt.rewards()])
    write_listing(tmp_path, made.info, made.prompts)
    return tmp_path


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the rows of a file anew."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@given(drawn_samples())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, samples: list[SampleRecord]
) -> None:
    path = tmp_path_factory.mktemp("recording")
    made = recording(samples)

    save_recording(path, made)
    read = load_recording(path)

    assert read.info == made.info
    (prompt,), (before,) = read.prompts, made.prompts
    for name in set(PromptRecord.__slots__) - {"samples"}:
        assert getattr(prompt, name) == getattr(before, name), name
    for mine, theirs in zip(prompt.samples, before.samples, strict=True):
        assert mine.token_confidences == pytest.approx(theirs.token_confidences)  # float32
        for name in set(SampleRecord.__slots__) - {"token_confidences"}:
            assert getattr(mine, name) == getattr(theirs, name), name


def test_files_are_read_in_order(folder: Path) -> None:
    read = load_recording(folder)

    assert [prompt.prompt_id for prompt in read.prompts] == ["p0", "p1"]
    assert [len(list(read_samples(path))) for path in sample_files(folder)] == [1, 1]
    assert [p.prompt_id for p in read.part([1]).prompts] == ["p1"]
    assert list(rewarded(folder, folder)) == list(read.prompts)
    assert not list(folder.glob("*.partial"))


def test_rewards_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    for path in folder.glob("rewards-*.parquet"):
        shutil.move(path, apart)
    assert [p.samples[0].answer for p in rewarded(folder, apart)] == [None, "a"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no recording there .* aic eval --out"):
        load_recording(tmp_path)


def test_samples_that_are_no_recording_yet_are_told(folder: Path) -> None:
    (folder / "recording.json").unlink()
    with pytest.raises(DatasetError, match=r"there are samples, but no recording"):
        load_recording(folder)


def test_models_do_not_mix(folder: Path) -> None:
    made: Recording = recording([sample(0, [0.5])])
    write_samples(folder, 9, info(model="another"), made.prompts)

    with pytest.raises(DatasetError, match=r"differ in model \('another' and 'nobody'\)"):
        load_recording(folder)


def test_a_prompt_that_comes_twice_is_refused(folder: Path) -> None:
    made = recording([sample(0, [0.5])])
    write_samples(folder, 9, made.info, made.prompts)

    with pytest.raises(DatasetError, match=r"samples-000009.parquet: prompt 'p0' is in another"):
        load_recording(folder)


def test_samples_that_are_gone_are_told(folder: Path) -> None:
    (folder / "samples-000001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"samples or rewards are gone: 'key-1'"):
        load_recording(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [float("nan")]}, "row 0: reward is nan, expected a finite number"),
        ({"rewards": [float("inf")]}, "row 0: reward is inf"),
        ({"rewards": [None]}, "row 0: reward is None"),
    ],
)
def test_a_bad_reward_is_named(folder: Path, change: Mapping[str, Any], message: str) -> None:
    changed(folder / "rewards-000000.parquet", lambda row: row.update(change))

    with pytest.raises(DatasetError, match=rf"rewards-000000.parquet, {message}"):
        load_recording(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finish_reason": "tired"},
            "row 0: samples.0.finish_reason: Input should be .stop. or",
        ),
        ({"num_generated_tokens": 0}, "row 0: num_generated_tokens is 0, with 2 token_ids"),
        ({"num_generated_tokens": 1}, "row 0: num_generated_tokens is 1, with 2 token_ids"),
        ({"seed": None}, "row 0: samples.0.seed: Input should be a valid integer"),
    ],
)
def test_a_bad_sample_is_named(folder: Path, change: Mapping[str, Any], message: str) -> None:
    changed(folder / "samples-000000.parquet", lambda row: row["samples"][0].update(change))

    with pytest.raises(DatasetError, match=rf"samples-000000.parquet, {message}"):
        load_recording(folder)


def test_missing_columns_are_named(folder: Path) -> None:
    path = folder / "samples-000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["split", "prompt_ids"]), path)

    with pytest.raises(DatasetError, match=r"000001.parquet, row 0: prompt_ids: Field required"):
        load_recording(folder)


def test_what_is_no_recording_is_refused(folder: Path) -> None:
    path = folder / "samples-000001.parquet"
    table = pq.read_table(path)

    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DatasetError, match="lacks the schema metadata 'aic_samples'"):
        load_recording(folder)

    pq.write_table(table.replace_schema_metadata({"aic_samples": '{"seed": 1}'}), path)
    with pytest.raises(DatasetError, match=r"aic_samples.task: Field required"):
        load_recording(folder)

    path.write_bytes(b"no Parquet")
    with pytest.raises(DatasetError, match="no Parquet file that can be read"):
        load_recording(folder)

    (folder / "recording.json").write_text('{"prompts": []}')
    with pytest.raises(DatasetError, match=r"recording.json: info: Field required"):
        load_recording(folder)
