"""Where fetched models are kept: whole or not there.

Each revision has a folder of its own::

    ~/.cache/adaptive-inference-compute/models/smollm2/v1/

``fetched.json``, written last, says what else is there. A folder without it, or whose files have
other sizes, is no model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfeval_backend.errors import DatasetError, ModelFilesError
from selfeval_backend.files import (
    locked,
    read_json,
    remove_folder,
    remove_unfinished,
    replacing_folder,
    write_json,
)
from selfeval_backend.model_store.known import KnownModel

__all__ = [
    "check_room",
    "is_kept",
    "is_whole",
    "keeping",
    "kept_folder",
    "models_folder",
    "working",
]

_VARIABLE = "AIC_CACHE_DIR"
_APPLICATION = "adaptive-inference-compute"
_CONTENTS = "fetched.json"
_TO_SPARE = 50_000_000


def models_folder() -> Path:
    """Return where fetched models are kept: in ``AIC_CACHE_DIR``, else in the user's cache."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(_VARIABLE)
    cache = Path(chosen).expanduser() if chosen else user_cache_path(_APPLICATION, appauthor=False)
    return cache.absolute() / "models"


def kept_folder(model: KnownModel) -> Path:
    """Return where a fetched model of this revision is, or will be."""
    return models_folder() / model.name / f"v{model.revision}"


def is_kept(folder: Path) -> bool:
    """Tell whether a folder is one of fetched models: it can be made again, and is nobody's own."""
    return models_folder().resolve() in folder.resolve().parents


def is_whole(folder: Path) -> bool:
    """Tell whether a fetched model is there with all its files, each as long as it was."""
    try:
        files = read_json(folder / _CONTENTS)["files"]
        return bool(files) and all(
            (folder / name).stat().st_size == num_bytes for name, num_bytes in files.items()
        )
    except (DatasetError, OSError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def working(model: KnownModel) -> Iterator[Path]:
    """Keep other processes from the folder of fetched models while one is made or removed.

    Waits for those that are at it. What they left unfinished is removed.

    Yields:
        The folder.

    Raises:
        ModelFilesError: Nothing can be written there.
    """
    try:
        with locked(models_folder(), waits=True):
            for folder in (models_folder(), models_folder() / model.name):
                remove_unfinished(folder)
            yield models_folder()
    except DatasetError as error:
        raise ModelFilesError(f"model: {model.name}: {error} {_VARIABLE} names one.") from error


def check_room(model: KnownModel, folder: Path, num_bytes: int) -> None:
    """Refuse to fetch what does not fit on the disk.

    Raises:
        ModelFilesError: There is less room than that, and some to spare.
    """
    free, needed = shutil.disk_usage(folder).free, num_bytes + _TO_SPARE
    if free < needed:
        raise ModelFilesError(
            f"model: {model.name} takes {needed / 1e6:.0f} MB while it is made, and {folder} has "
            f"{free / 1e6:.0f} MB left. Make room, or name another folder in {_VARIABLE}."
        )


@contextmanager
def keeping(model: KnownModel) -> Iterator[Path]:
    """Yield an empty folder; what is there at the end is kept as the model, and older ones are not.

    Raises:
        DatasetError: It cannot be written; what was kept before still is.
    """
    folder = kept_folder(model)
    folder.parent.mkdir(exist_ok=True)
    with replacing_folder(folder) as fresh:
        yield fresh
        files = {path.name: path.stat().st_size for path in sorted(fresh.iterdir())}
        contents = {"model": model.name, "revision": model.revision, "source": str(model.source)}
        write_json(fresh / _CONTENTS, {**contents, "files": files})
    for number in range(1, model.revision):
        remove_folder(folder.with_name(f"v{number}"))
