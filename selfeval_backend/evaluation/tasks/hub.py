"""Rows of data sets of the Hugging Face hub, or of folders in its formats, by `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfeval_backend.errors import DatasetError, MissingDependencyError
from selfeval_backend.files import one_line

__all__ = ["read_hub"]


def read_hub(
    source: str | Path, *, config: str, split: str, remedy: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (row number from 1, row) of one split.

    Args:
        source: A data set's name on the hub, which is downloaded once and kept by the library; or a
            folder: a copy of the hub's, or what `save_to_disk` wrote.
        config: Of a data set that has several.
        split: Which part.
        remedy: What else can be done, for errors.

    Raises:
        DatasetError: It cannot be downloaded or read, or has no such split.
        MissingDependencyError: The `datasets` library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("datasets", extra="datasets") from error
    try:
        if isinstance(source, Path):
            rows = _folder(datasets, source, config, split)
        else:
            rows = datasets.load_dataset(source, config, split=split)
    except DatasetError:
        raise
    except Exception as error:
        # Whatever a hub, a loader or a file format raises.
        done = "read" if isinstance(source, Path) else "downloaded"
        raise DatasetError(f"{source} cannot be {done}: {one_line(error)}. {remedy}") from error
    yield from enumerate(rows, 1)


def _folder(datasets: Any, folder: Path, config: str, split: str) -> Any:
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
