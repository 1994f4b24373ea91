"""Where a model's ``selfeval.json`` is: beside its weights, or in the user's own folder.

Files that are not one's own stay as they are: those of a hub's cache and of ours, of an installed
package, of a folder that cannot be written. What is tuned for such a model stands in the user's
folder, under the model's name and a fingerprint of its files, so that it is never taken for another
model's::

    ~/.local/share/adaptive-inference-compute/selfeval/org--name/0e9e39f249a1/selfeval.json

It goes before the file beside the weights.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import check_folder
from selfeval_backend.model_store import is_kept
from selfeval_backend.selfeval import FILE_NAME, SelfEvalConfig

__all__ = ["FoundSelfEval", "file_to_write", "find_selfeval", "user_folder"]

_PACKAGE = Path(__file__).resolve().parents[1]
_FINGERPRINT_LETTERS = 12
_SMALL_FILES = ("config.json", FILE_NAME)
_WEIGHTS = ("*.safetensors", "*.bin")
_NUM_CHUNKS, _CHUNK_BYTES = 256, 4096
"""Of each file of weights that is looked at: reading them whole takes as long as loading them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSelfEval:
    """A model's own facts, and where they are from."""

    config: SelfEvalConfig | None
    """None: the model has none."""
    path: Path | None
    """The file; None where there is none."""
    of_user: bool = False
    """Whether it is in the user's folder."""
    passed_over: tuple[Path, ...] = ()
    """Files in the user's folder for a model of this name whose files are others; where none fits
    this one."""


def find_selfeval(folder: Path) -> FoundSelfEval:
    """Read the ``selfeval.json`` of a model folder: the user's, else the one beside it.

    Raises:
        ModelFilesError: The file cannot be read, or does not hold what it should.
    """
    files = sorted(_of_name(folder).glob(f"*/{FILE_NAME}"))
    if files:
        own = _of_model(folder)
        if own / FILE_NAME in files:
            return FoundSelfEval(
                config=SelfEvalConfig.load(own), path=own / FILE_NAME, of_user=True
            )
    config = SelfEvalConfig.load(folder)
    path = None if config is None else folder / FILE_NAME
    return FoundSelfEval(config=config, path=path, passed_over=tuple(files))


def file_to_write(folder: Path) -> Path:
    """Return the file that a model's facts are to be written to, as loading finds it.

    That is the one beside its weights where they are the user's own, else one in the user's folder.

    Raises:
        DatasetError: Neither can be written.
    """
    if not _is_of_hub(folder) and not _is_of_package(folder) and not is_kept(folder):
        try:
            check_folder(folder)
        except DatasetError:
            pass  # read-only, or full: that is what the user's folder is for
        else:
            return folder / FILE_NAME
    own = _of_model(folder)
    check_folder(own)
    return own / FILE_NAME


def user_folder() -> Path:
    """Return where the user's own ``selfeval.json`` files are."""
    from platformdirs import user_data_path

    return user_data_path("adaptive-inference-compute", appauthor=False) / "selfeval"


def _of_name(folder: Path) -> Path:
    """Return the user's folder of all models of a name."""
    folder = folder.resolve()
    if _is_of_hub(folder):
        return user_folder() / folder.parent.parent.name.removeprefix("models--")
    if is_kept(folder):
        return user_folder() / folder.parent.name
    return user_folder() / "-".join(folder.parts[-2:]).strip(os.sep + ".")


def _of_model(folder: Path) -> Path:
    return _of_name(folder) / _fingerprint(folder.resolve())[:_FINGERPRINT_LETTERS]


def _is_of_hub(folder: Path) -> bool:
    """Tell whether a folder is a snapshot of a hub's cache: its files are links to shared ones."""
    folder = folder.resolve()
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def _is_of_package(folder: Path) -> bool:
    return _PACKAGE in folder.resolve().parents


def _fingerprint(folder: Path) -> str:
    """Return what tells a model's files from others: a hub's commit, else a hash of them.

    Raises:
        DatasetError: A file cannot be read.
    """
    if _is_of_hub(folder):
        return folder.name
    digest = hashlib.sha256()
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    try:
        for path in (*(folder / name for name in _SMALL_FILES), *weights):
            if path.is_file():
                digest.update(path.name.encode(errors="surrogateescape"))
                digest.update(_sampled(path))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from error
    return digest.hexdigest()


def _sampled(path: Path) -> bytes:
    """Return a hash of a file's size and of chunks all over it: a training changes most of them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _NUM_CHUNKS * _CHUNK_BYTES:
            digest.update(file.read())
        else:
            for place in range(_NUM_CHUNKS):
                file.seek(place * (size - _CHUNK_BYTES) // (_NUM_CHUNKS - 1))
                digest.update(file.read(_CHUNK_BYTES))
    return digest.digest()
