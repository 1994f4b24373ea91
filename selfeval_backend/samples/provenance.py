"""What samples are of: the model's files, as far as they can be known, and what changed since."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.errors import AICError
from selfeval_backend.files import writing
from selfeval_backend.hashing import Hasher, digest_of
from selfeval_backend.model import SelfEvaluatingModel, identify_files
from selfeval_backend.samples.records import Recording, RecordingInfo
from selfeval_backend.scorers import identify, read_spec
from selfeval_backend.selfeval import FILE_NAME

__all__ = ["LOCAL_ENGINES", "changes_since", "files_digest", "files_of"]

LOCAL_ENGINES = ("transformers", "vllm")
"""Engines that read the files of the model's folder."""


def files_of(model: SelfEvaluatingModel, folder: Path) -> str | None:
    """Return a hash of what decides a model's samples; None where it is not known.

    Of a model in this process these are weights, config, tokenizer and chat template. Of a server
    it is the name that the model is served under and what it takes: whether its weights change
    behind that name cannot be seen from here. Tokens of prompts are recorded with the prompts.

    Args:
        model: That is recorded.
        folder: Where the recording is; remembers the hashes of files that are not touched.
    """
    engine = model.engine.capabilities
    if engine.name in LOCAL_ENGINES:
        return files_digest(model.name, folder)
    if engine.name == "vllm-server":
        return digest_of([model.name, engine.context_length])
    return None


def files_digest(model: str | Path, folder: Path) -> str:
    """Return a hash of a model's files, without its `selfeval.json`, which is recorded as it is.

    Raises:
        ModelFilesError: There is no such model.
        DatasetError: The folder, which remembers hashes, cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    hasher = Hasher(folder / "hashes.json")
    found = digest_of(identify_files(model, hasher, leave_out=(FILE_NAME,)))
    hasher.save()
    return found


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
