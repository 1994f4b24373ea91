"""Samples and their rewards in files; see the package's docstring for what a folder holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_json, write_json
from selfeval_backend.samples.records import PromptRecord, Recording, RecordingInfo
from selfeval_backend.samples.rewards import MAX_ERROR_SHARE, Rewards, refuse_failures
from selfeval_backend.samples.shards import (
    chunks_of,
    iterate_rows,
    need_pyarrow,
    shard_name,
    shards_of,
    write_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Listed",
    "Listing",
    "check_failures",
    "load_recording",
    "messages_type",
    "next_number",
    "read_info",
    "read_listing",
    "read_rewards",
    "read_samples",
    "refuse_others",
    "reward_files",
    "rewarded",
    "sample_files",
    "save_recording",
    "write_listing",
    "write_rewards",
    "write_samples",
]

T = TypeVar("T")

_PROMPT, _REWARDS = TypeAdapter(PromptRecord), TypeAdapter(Rewards)
_LISTING = "recording.json"
_METADATA_KEY = b"aic_samples"
_PROMPTS_A_FILE = 1000
_PLACE_ONLY = frozenset({"scorer", "scorer_spec", "scorer_digest"})
"""Fields of `RecordingInfo` that decide no sample."""


class Listed(BaseModel):
    """One prompt of a recording."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    prompt_id: str
    scored_by: str | None
    """Which of its rewards count."""


class Listing(BaseModel):
    """What `recording.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    info: RecordingInfo
    prompts: tuple[Listed, ...]


def sample_files(folder: Path) -> list[Path]:
    """Return the files of samples of a folder, in order."""
    return shards_of(folder, "samples")


def reward_files(folder: Path) -> list[Path]:
    """Return the files of rewards of a folder, in order."""
    return shards_of(folder, "rewards")


def next_number(files: Sequence[Path]) -> int:
    """Return the number of the next file."""
    return 1 + int(files[-1].stem.rpartition("-")[2]) if files else 0


# Samples


def write_samples(
    folder: Path, number: int, info: RecordingInfo, prompts: Sequence[PromptRecord]
) -> None:
    """Write whole prompts as one file, without their rewards.

    Raises:
        DatasetError: It cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    schema = _samples_schema().with_metadata({_METADATA_KEY: info.model_dump_json().encode()})
    rows = [_PROMPT.dump_python(prompt) for prompt in prompts]
    write_rows(folder / shard_name(number, "samples"), rows, schema)


def read_samples(path: Path) -> Iterator[PromptRecord]:
    """Yield the prompts of a file, a few in memory at a time; their rewards are not known.

    Raises:
        DatasetError: It cannot be read, or a row holds what it must not; names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    for where, prompt in _read(path, _PROMPT):
        for sample in prompt.samples:
            if sample.num_generated_tokens < max(1, len(sample.token_ids)):
                raise DatasetError(
                    f"{where}: num_generated_tokens is {sample.num_generated_tokens}, "
                    f"with {len(sample.token_ids)} token_ids"
                )
        yield prompt


def read_info(path: Path) -> RecordingInfo:
    """Return what the samples of a file share.

    Raises:
        DatasetError: It is no such file.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = need_pyarrow()
    try:
        schema = arrow.parquet.read_schema(path)
    except (OSError, arrow.ArrowException) as error:
        raise DatasetError(f"{path} is no Parquet file that can be read: {error}") from error
    body = (schema.metadata or {}).get(_METADATA_KEY)
    if body is None:
        raise DatasetError(f"{path} lacks the schema metadata {_METADATA_KEY.decode()!r}")
    try:
        return RecordingInfo.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(f"{path}: {_METADATA_KEY.decode()}.", error) from error


def refuse_others(path: Path, was: RecordingInfo, now: RecordingInfo) -> None:
    """Refuse samples of another model, task, or other settings.

    Calibration, policy and provenance of the self-evaluation are read when samples are looked at:
    they decide none.

    Args:
        path: Of the file that the samples are in.
        was: What it says of them.
        now: What they are to be.

    Raises:
        DatasetError: Names what differs.
    """
    for name in RecordingInfo.model_fields:
        before, after = getattr(was, name), getattr(now, name)
        if name in _PLACE_ONLY or before == after:
            continue
        shown = f"{name} ({before!r} and {after!r})"
        if name == "selfeval":
            asked = [(c.question, c.win_or_tie_label, c.loss_label) for c in (before, after)]
            if asked[0] == asked[1]:
                continue
            shown = "the question or the labels of the self-evaluation"
        if name == "model_files":
            if before is None:
                continue  # it was not known: that is said
            shown = "model_files: weights, config, tokenizer or chat template changed"
        raise DatasetError(
            f"{path} and what was asked for differ in {shown}: one recording is of one model, task "
            "and setting. Take another folder (--out), or remove this one."
        )


# Rewards


def write_rewards(folder: Path, number: int, rewards: Sequence[Rewards]) -> None:
    """Write rewards as one file.

    Raises:
        DatasetError: It cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    rows = [_REWARDS.dump_python(each) for each in rewards]
    write_rows(folder / shard_name(number, "rewards"), rows, _rewards_schema())


def read_rewards(path: Path) -> Iterator[Rewards]:
    """Yield the rewards of a file.

    Raises:
        DatasetError: It cannot be read, or a row holds what it must not; names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    for where, found in _read(path, _REWARDS):
        for reward, reason in zip(found.rewards, found.errors, strict=True):
            if reason is None and (reward is None or not math.isfinite(reward)):
                raise DatasetError(f"{where}: reward is {reward}, expected a finite number")
        yield found


def rewarded(samples: Path, rewards: Path) -> Iterator[PromptRecord]:
    """Yield all prompts of a folder with their rewards, which lie in files of the same numbers.

    Args:
        samples: Folder of the samples.
        rewards: Folder of the rewards; each file is whole.

    Raises:
        DatasetError: A file cannot be read.
    """
    for path in sample_files(samples):
        number = next_number([path]) - 1
        scored = read_rewards(rewards / shard_name(number, "rewards"))
        for prompt, mine in zip(read_samples(path), scored, strict=True):
            yield prompt.with_rewards(mine)


# Recordings


def write_listing(folder: Path, info: RecordingInfo, prompts: Iterable[PromptRecord]) -> None:
    """Say which prompts of a folder are its recording, unless it says so already.

    Raises:
        DatasetError: It cannot be written.
    """
    listed = tuple(Listed(key=p.key, prompt_id=p.prompt_id, scored_by=p.scored_by) for p in prompts)
    listing = Listing(info=info, prompts=listed)
    if listing != read_listing(folder):
        write_json(folder / _LISTING, listing.model_dump(mode="json"))


def read_listing(folder: Path) -> Listing | None:
    """Return what the recording of a folder is; None where there is none.

    Raises:
        DatasetError: It cannot be read.
    """
    path = folder / _LISTING
    if not path.exists():
        return None
    try:
        return Listing.model_validate(read_json(path))
    except ValidationError as error:
        raise _invalid(f"{path}: ", error) from error


def save_recording(folder: Path, recording: Recording) -> None:
    """Write a recording into a folder that holds none.

    Raises:
        DatasetError: It cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    for number, prompts in enumerate(chunks_of(recording.prompts, _PROMPTS_A_FILE)):
        write_samples(folder, number, recording.info, prompts)
        write_rewards(folder, number, [prompt.rewards() for prompt in prompts])
    write_listing(folder, recording.info, recording.prompts)


def load_recording(folder: Path, *, max_error_share: float = MAX_ERROR_SHARE) -> Recording:
    """Read the recording of a folder.

    Args:
        folder: As `aic eval` and `aic train` write it.
        max_error_share: Of all samples: more that have no reward are refused.

    Raises:
        DatasetError: There is none, a file cannot be read, a column is missing, files are of
            different models or settings, too many rewards failed, or a row holds what it must not;
            names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    listing = read_listing(folder)
    if listing is None and sample_files(folder):
        raise DatasetError(
            f"{folder}: there are samples, but no recording ({_LISTING}). Of aic train, take the "
            "folder calibrate-*/test; of aic eval, run it again: it goes on."
        )
    if listing is None:
        raise DatasetError(
            f"{folder}: no recording there ({_LISTING}). Make one with: aic eval --out {folder}"
        )
    wanted = {listed.key for listed in listing.prompts}
    records: dict[str, PromptRecord] = {}
    for path in sample_files(folder):
        refuse_others(path, read_info(path), listing.info)
        for record in read_samples(path):
            if record.key in records:
                raise DatasetError(f"{path}: prompt {record.prompt_id!r} is in another file too")
            if record.key in wanted:
                records[record.key] = record
    rewards = {
        (found.key, found.scored_by): found  # the last ones count: what failed is tried again
        for path in reward_files(folder)
        for found in read_rewards(path)
        if found.key in wanted
    }
    try:
        prompts = tuple(
            records[listed.key]
            .renamed(listed.prompt_id)
            .with_rewards(rewards[listed.key, listed.scored_by])
            for listed in listing.prompts
        )
    except KeyError as error:
        raise DatasetError(f"{folder}: samples or rewards are gone: {error}") from error
    check_failures(prompts, max_error_share=max_error_share)
    return Recording(info=listing.info, prompts=prompts).with_worst()


def check_failures(
    prompts: Sequence[PromptRecord], *, max_error_share: float, num_samples: int | None = None
) -> None:
    """Refuse prompts of whose samples too many have no reward; see `refuse_failures`.

    Args:
        prompts: With their samples.
        max_error_share: Of all samples.
        num_samples: Of the whole recording; None: these are all.

    Raises:
        DatasetError: More of them failed.
    """
    total = sum(len(prompt.samples) for prompt in prompts)
    refuse_failures(
        (
            (
                sample.error,
                f"prompt {prompt.prompt_id!r}, sample {sample.index} at temperature "
                f"{sample.temperature:g}",
            )
            for prompt in prompts
            for sample in prompt.samples
            if sample.error is not None
        ),
        num_rewards=total,
        num_planned=num_samples or total,
        max_error_share=max_error_share,
    )


def _invalid(start: str, error: ValidationError) -> DatasetError:
    first = error.errors()[0]
    return DatasetError(f"{start}{'.'.join(map(str, first['loc']))}: {first['msg']}")


# Rows


def messages_type() -> pa.DataType:
    """Return how messages stand in a column."""
    arrow = need_pyarrow()
    return arrow.list_(arrow.struct([("role", arrow.string()), ("content", arrow.string())]))


def _samples_schema() -> pa.Schema:
    """Columns are fields of `PromptRecord` and `SampleRecord`, but for those of rewards."""
    arrow = need_pyarrow()
    tokens = arrow.list_(arrow.int32())
    sample = arrow.struct(
        [
            ("index", arrow.int32()),
            ("temperature", arrow.float64()),
            ("seed", arrow.int64()),
            ("token_ids", tokens),
            ("num_generated_tokens", arrow.int32()),
            ("finish_reason", arrow.string()),
            ("text", arrow.string()),
            ("sum_logprob", arrow.float64()),
            ("label_logprobs", arrow.map_(arrow.int32(), arrow.list_(arrow.float64()))),
            ("token_confidences", arrow.list_(arrow.float32())),
            ("self_certainty", arrow.float64()),
            ("untrained_logprobs", arrow.list_(arrow.float64())),
        ]
    )
    return arrow.schema(
        [
            ("key", arrow.string()),
            ("prompt_id", arrow.string()),
            ("messages", messages_type()),
            ("prompt_ids", tokens),
            ("samples", arrow.list_(sample)),
            ("split", arrow.string()),
            ("reference", arrow.string()),
            ("error", arrow.string()),
        ]
    )


def _rewards_schema() -> pa.Schema:
    """Columns are fields of `Rewards`."""
    arrow = need_pyarrow()
    return arrow.schema(
        [
            ("key", arrow.string()),
            ("scored_by", arrow.string()),
            ("rewards", arrow.list_(arrow.float64())),
            ("errors", arrow.list_(arrow.string())),
            ("answers", arrow.list_(arrow.string())),
            ("reference_characters", arrow.int32()),
        ]
    )


def _read(path: Path, reader: TypeAdapter[T]) -> Iterator[tuple[str, T]]:
    """Yield (where it stands, record) of each row, a few in memory at a time."""
    for number, row in enumerate(iterate_rows([path], batch_size=64)):
        for sample in row.get("samples", ()):
            sample["label_logprobs"] = dict(sample["label_logprobs"])
        where = f"{path}, row {number}"
        try:
            yield where, reader.validate_python(row)
        except ValidationError as error:
            raise _invalid(f"{where}: ", error) from error
