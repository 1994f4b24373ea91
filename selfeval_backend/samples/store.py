"""Samples and their rewards in files; see the package's docstring for what a folder holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from selfeval_backend.chat import Message
from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_json, write_json
from selfeval_backend.samples.records import PromptRecord, Recording, RecordingInfo, SampleRecord
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
    "messages_json",
    "next_number",
    "read_info",
    "read_listing",
    "read_messages",
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
    write_rows(folder / shard_name(number, "samples"), list(map(_row, prompts)), schema)


def read_samples(path: Path) -> Iterator[PromptRecord]:
    """Yield the prompts of a file, a few in memory at a time; their rewards are not known.

    Raises:
        DatasetError: It cannot be read, or a row holds what it must not; names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    for number, row in enumerate(iterate_rows([path], batch_size=64)):
        yield _prompt(row, f"{path}, row {number}")


def read_info(path: Path) -> RecordingInfo:
    """Return what the samples of a file share.

    Raises:
        DatasetError: It is no such file, or lacks columns.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = need_pyarrow()
    try:
        schema = arrow.parquet.read_schema(path)
    except (OSError, arrow.ArrowException) as error:
        raise DatasetError(f"{path} is no Parquet file that can be read: {error}") from error
    found = set(_names(schema))
    if missing := [name for name in _names(_samples_schema()) if name not in found]:
        raise DatasetError(f"{path} lacks the columns {', '.join(missing)}")
    body = (schema.metadata or {}).get(_METADATA_KEY)
    if body is None:
        raise DatasetError(f"{path} lacks the schema metadata {_METADATA_KEY.decode()!r}")
    try:
        return RecordingInfo.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(f"{path}: {_METADATA_KEY.decode()}", error) from error


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
    rows = [
        {
            "key": each.key,
            "scored_by": each.scored_by,
            "reference_characters": each.reference_characters,
            "rewards": each.rewards,
            "errors": each.errors,
            "answers": each.answers,
        }
        for each in rewards
    ]
    write_rows(folder / shard_name(number, "rewards"), rows, _rewards_schema())


def read_rewards(path: Path) -> Iterator[Rewards]:
    """Yield the rewards of a file.

    Raises:
        DatasetError: It cannot be read, or a row holds what it must not; names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    for number, row in enumerate(iterate_rows([path])):
        given = _with_tuples(row)
        try:
            found = Rewards(**given)
        except TypeError as error:
            raise DatasetError(f"{path}, row {number}: no rewards: {error}") from error
        for reward, reason in zip(found.rewards, found.errors, strict=True):
            if reward is None and reason is None:
                raise DatasetError(f"{path}, row {number}: reward is null")
            if reward is not None and not math.isfinite(reward):
                raise DatasetError(
                    f"{path}, row {number}: reward is {reward}, expected a finite number"
                )
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
        raise _invalid(str(path), error) from error


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


def _invalid(where: str, error: ValidationError) -> DatasetError:
    first = error.errors()[0]
    return DatasetError(f"{where}.{'.'.join(map(str, first['loc']))}: {first['msg']}")


# Rows


def _samples_schema() -> pa.Schema:
    arrow = need_pyarrow()
    tokens = arrow.list_(arrow.int32())
    evaluation = arrow.struct(
        [
            ("num_tokens", arrow.int32()),
            ("logprob_win_or_tie", arrow.float64()),
            ("logprob_loss", arrow.float64()),
        ]
    )
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
            ("evaluations", arrow.list_(evaluation)),
            ("token_confidences", arrow.list_(arrow.float32())),
            ("self_certainty", arrow.float64()),
            ("untrained_logprobs", arrow.list_(arrow.float64())),
        ]
    )
    return arrow.schema(
        [
            ("key", arrow.string()),
            ("prompt_id", arrow.string()),
            ("split", arrow.string()),
            ("messages", arrow.string()),
            ("reference", arrow.string()),
            ("prompt_token_ids", tokens),
            ("error", arrow.string()),
            ("samples", arrow.list_(sample)),
        ]
    )


def _rewards_schema() -> pa.Schema:
    arrow = need_pyarrow()
    return arrow.schema(
        [
            ("key", arrow.string()),
            ("scored_by", arrow.string()),
            ("reference_characters", arrow.int32()),
            ("rewards", arrow.list_(arrow.float64())),
            ("errors", arrow.list_(arrow.string())),
            ("answers", arrow.list_(arrow.string())),
        ]
    )


def _names(schema: pa.Schema) -> Iterator[str]:
    """Yield the columns, those of a sample as ``samples.name``."""
    for column in schema:
        yield column.name
        if column.name == "samples":
            yield from (f"samples.{part.name}" for part in column.type.value_type)


def messages_json(messages: Sequence[Message]) -> str:
    """Return messages as JSON."""
    return json.dumps(
        [{"role": m.role, "content": m.content} for m in messages], ensure_ascii=False
    )


def read_messages(text: str) -> tuple[Message, ...]:
    """Return messages from what `messages_json` returned."""
    return tuple(Message(**message) for message in json.loads(text))


def _row(prompt: PromptRecord) -> dict[str, Any]:
    return {
        "key": prompt.key,
        "prompt_id": prompt.prompt_id,
        "split": prompt.split,
        "messages": messages_json(prompt.messages),
        "reference": prompt.reference,
        "prompt_token_ids": prompt.prompt_ids,
        "error": prompt.error,
        "samples": [_sample_row(sample) for sample in prompt.samples],
    }


_AS_THEY_ARE = (
    *("index", "temperature", "seed", "token_ids", "num_generated_tokens", "finish_reason", "text"),
    *("sum_logprob", "token_confidences", "self_certainty", "untrained_logprobs"),
)
"""Columns of a sample that are fields of `SampleRecord`."""
_MAY_BE_NULL = frozenset(_AS_THEY_ARE[-4:])


def _sample_row(sample: SampleRecord) -> dict[str, Any]:
    evaluations = [
        {"num_tokens": num_tokens, "logprob_win_or_tie": win_or_tie, "logprob_loss": loss}
        for num_tokens, (win_or_tie, loss) in sorted(sample.label_logprobs.items())
    ]
    return {"evaluations": evaluations, **{name: getattr(sample, name) for name in _AS_THEY_ARE}}


def _prompt(row: Mapping[str, Any], where: str) -> PromptRecord:
    return PromptRecord(
        key=row["key"],
        prompt_id=row["prompt_id"],
        messages=read_messages(row["messages"]),
        prompt_ids=tuple(row["prompt_token_ids"]),
        samples=tuple(_sample(sample, where) for sample in row["samples"]),
        split=row["split"],
        reference=row["reference"],
        error=row["error"],
    )


def _sample(row: Mapping[str, Any], where: str) -> SampleRecord:
    for name in _AS_THEY_ARE:
        if row[name] is None and name not in _MAY_BE_NULL:
            raise DatasetError(f"{where}: {name} is null")
    if row["finish_reason"] not in ("stop", "length"):
        raise DatasetError(f"{where}: finish_reason is {row['finish_reason']!r}")
    if not row["num_generated_tokens"] >= max(1, len(row["token_ids"])):
        raise DatasetError(
            f"{where}: num_generated_tokens is {row['num_generated_tokens']}, "
            f"with {len(row['token_ids'])} token_ids"
        )
    given = _with_tuples({name: row[name] for name in _AS_THEY_ARE})
    said = {
        e["num_tokens"]: (e["logprob_win_or_tie"], e["logprob_loss"]) for e in row["evaluations"]
    }
    return SampleRecord(label_logprobs=said, **given)


def _with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(value) if isinstance(value, list) else value for k, value in row.items()}
