"""Where a model's files are: a model known by name, a folder, or a name in the hub's cache."""

from __future__ import annotations

import math
from pathlib import Path

from selfeval_backend.errors import MissingDependencyError, ModelFilesError
from selfeval_backend.files import one_line
from selfeval_backend.hashing import Hasher
from selfeval_backend.model_store import (
    BASE_FOLDER,
    KNOWN,
    REFERENCE_FOLDER,
    fetch_model,
    known_model,
)

__all__ = [
    "BASE_FOLDER",
    "REFERENCE_FOLDER",
    "count_parameters",
    "identify_files",
    "locate_model_files",
]

_NAMES = ", ".join(f'"{name}"' for name in KNOWN)
_DECISIVE = ("*.json", "*.safetensors", "*.model", "*.jinja")
"""Files that decide what a model says."""


def locate_model_files(model: str | Path, *, with_weights: bool = True) -> Path:
    """Return the folder that holds a model's files; a model by name is downloaded if need be.

    Args:
        model: A name in `selfeval_backend.model_store.KNOWN`, a folder, or a model of the hub.
        with_weights: False: of a model of the hub, download all but the weights.

    Raises:
        ModelFilesError: There is no such folder and no such model, or it cannot be had.
        MissingDependencyError: What it takes to have it is not installed.
    """
    if known := known_model(model):
        return _checked(fetch_model(known), model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder, model)
    if folder.exists():
        raise ModelFilesError(f"model: {model} is a file. Give the folder of a model.")
    if str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise ModelFilesError(
            f"model: there is no folder {model}. Give {_NAMES}, a model folder, or a model name."
        )
    return _checked(_download(str(model), with_weights=with_weights), model)


def identify_files(model: str | Path, hasher: Hasher, *, leave_out: tuple[str, ...] = ()) -> object:
    """Return what tells one model's files from another's, in JSON types.

    A folder by the content of weights, config, tokenizer and template; a model name by the revision
    that it was resolved to.

    Args:
        model: As `locate_model_files` takes it.
        hasher: Remembers files that have not been touched.
        leave_out: Names of files that do not count.

    Raises:
        ModelFilesError: There is no such model.
    """
    folder = locate_model_files(model, with_weights=False)
    if known_model(model) or Path(model).expanduser().is_dir():
        return hasher.folder(folder, _DECISIVE, leave_out=leave_out)
    return [str(model), folder.name]


def count_parameters(model: str | Path) -> int:
    """Return how many weights a model's safetensors files hold; tied ones count once.

    Args:
        model: As `locate_model_files` takes it.

    Raises:
        ModelFilesError: There is no such folder, or it has no weights as safetensors.
        MissingDependencyError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingDependencyError("safetensors", extra="transformers") from error
    folder = locate_model_files(model)
    total = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as weights:
                names = weights.keys()  # it is no dictionary: it cannot be iterated
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise ModelFilesError(f"model: {model}: {path} cannot be read: {error}") from error
    if not total:
        raise ModelFilesError(f"model: {model}: {folder} has no weights as safetensors.")
    return total


def _checked(folder: Path, model: str | Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelFilesError(
            f"model: {model}: {folder} has no config.json, so it is no model. "
            "Give a folder that `save_pretrained` wrote."
        )
    return folder


def _download(name: str, *, with_weights: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", extra="transformers") from error
    patterns = ["*.json", "*.model", "*.jinja"]
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=[*patterns, "*.safetensors"] if with_weights else patterns
            )
        )
    except Exception as error:
        # Of the hub, of the way to it (a proxy's URL, a missing package), of the disk.
        reason = one_line(error).removesuffix(".")
        raise ModelFilesError(
            f"model: {name} is no folder here and could not be found by name: {reason}. "
            f"Give {_NAMES}, a model folder, or the name of a model you have access to."
        ) from error
