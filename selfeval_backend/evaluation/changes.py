"""What has changed since a recording was made, for those who only replay it."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.errors import AICError
from selfeval_backend.evaluation.model_files import LOCAL_ENGINES, files_digest
from selfeval_backend.evaluation.recordings import Recording, RecordingInfo
from selfeval_backend.scorers import identify, read_spec

__all__ = ["changes_since"]


def changes_since(recording: Recording, folder: Path) -> tuple[str, ...]:
    """Return what is not as it was when a recording was made, one line each.

    A replay shows what was recorded, whatever became of it since. What cannot be looked at from
    here (a scorer of another folder, a model that is gone) is not told of.

    Args:
        recording: As it was read.
        folder: Where it was read from.
    """
    info = recording.info
    found = (_scorer_changed(info), _model_changed(info, folder))
    return tuple(line for line in found if line is not None)


def _scorer_changed(info: RecordingInfo) -> str | None:
    if info.scorer_spec is None:
        return None
    try:
        now = identify(read_spec("scorer", info.scorer_spec))
    except AICError:
        return None
    if now.digest == info.scorer_digest:
        return None
    return (
        f"rewards are of {info.scorer}; it is {now.name} now. Run aic eval again, without "
        "--rollouts: samples are kept, and rewards made anew"
    )


def _model_changed(info: RecordingInfo, folder: Path) -> str | None:
    if info.engine not in LOCAL_ENGINES or info.model_files is None:
        return None
    try:
        now = files_digest(info.model, folder)
    except AICError:
        return None
    if now == info.model_files:
        return None
    return f"the files of {info.model} are not those that were recorded: it is another model now"
