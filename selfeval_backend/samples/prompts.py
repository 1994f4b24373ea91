"""Prompts, and the rows that they are read from: files, the hub, or folders in its formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfeval_backend.chat import Message, check_messages
from selfeval_backend.errors import ConfigurationError, DatasetError, MissingDependencyError
from selfeval_backend.files import one_line, read_csv, read_json_lines, read_parquet

__all__ = ["Prompt", "first_turn", "messages_of", "read_hub", "read_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt."""

    prompt_id: str
    """Its name: in training, 64 bits of the hash of its messages, in hexadecimal."""
    messages: tuple[Message, ...]
    split: str | None = None
    """Of training: "train", "validation", "calibration" or "test"."""
    answer: str | None = None
    """What a verifier of training compares with."""

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1].content


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where it stands, row) of a file: Parquet or CSV by its ending, else JSON lines.

    Raises:
        DatasetError: It cannot be read; names file and line.
        MissingDependencyError: It is Parquet, and pyarrow is not installed.
    """
    match path.suffix:
        case ".parquet":
            yield from ((f"{path}, row {n}", row) for n, row in enumerate(read_parquet(path), 1))
        case ".csv":
            yield from ((f"{path}, row {n}", row) for n, row in enumerate(read_csv(path), 1))
        case _:
            yield from ((f"{path}, line {n}", row) for n, row in read_json_lines(path))


def read_hub(
    source: str | Path,
    *,
    config: str | None,
    split: str,
    remedy: str = "",
    streaming: bool = False,
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of one split of a data set, by `datasets`.

    Args:
        source: A data set's name on the hub, which is downloaded once and kept by the library; or a
            folder: a copy of the hub's, or what `save_to_disk` wrote.
        config: Of a data set that has several.
        split: Which part.
        remedy: What else can be done, for errors.
        streaming: Whether a data set by name is read as it is asked for, and not downloaded.

    Raises:
        DatasetError: It cannot be downloaded or read, or has no such split.
        MissingDependencyError: The `datasets` library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("datasets", extra="datasets") from error
    is_folder = Path(source).is_dir()
    try:
        if is_folder:
            yield from _folder(datasets, Path(source), config, split)
        else:
            name = str(source)
            yield from datasets.load_dataset(name, config, split=split, streaming=streaming)
    except DatasetError:
        raise
    except Exception as error:
        # Whatever a hub, a loader or a file format raises.
        done = "read" if is_folder or streaming else "downloaded"
        reason = f"{source} cannot be {done}: {one_line(error)}. {remedy}"
        raise DatasetError(reason.rstrip()) from error


def _folder(datasets: Any, folder: Path, config: str | None, split: str) -> Any:
    if (folder / "state.json").is_file():
        return datasets.load_from_disk(str(folder))  # one split: it is the one that is meant
    if (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(folder))
        if split not in splits:
            raise DatasetError(f"{folder} has no split {split!r}, but {', '.join(splits)}")
        return splits[split]
    configs = datasets.get_dataset_config_names(str(folder))
    return datasets.load_dataset(
        str(folder), config if config in configs else configs[0], split=split
    )


def messages_of(given: Any, where: str) -> tuple[Message, ...]:
    """Return what a row asks: a text, or a list of messages with role and content.

    Raises:
        DatasetError: It is neither; names the row.
    """
    try:
        if isinstance(given, str):
            messages: tuple[Message, ...] = (Message(role="user", content=given),)
        else:
            messages = tuple(Message(role=t["role"], content=t["content"]) for t in given)
        check_messages(messages)
    except (TypeError, KeyError, ConfigurationError) as error:
        raise DatasetError(
            f"{where} is no prompt: {error}. Give text, or messages with role and content."
        ) from error
    return messages


def first_turn(messages: Any) -> Any:
    """Return what comes before the first assistant turn."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return messages
    turns = []
    for turn in messages:
        if turn.get("role") == "assistant":
            break
        turns.append(turn)
    return turns
