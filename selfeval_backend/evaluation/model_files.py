"""What the model is that was recorded: its files, as far as they can be known."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.files import writing
from selfeval_backend.hashing import Hasher, digest_of
from selfeval_backend.model import SelfEvaluatingModel, identify_files
from selfeval_backend.selfeval import FILE_NAME

__all__ = ["LOCAL_ENGINES", "files_digest", "files_of"]

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


def files_digest(model: str, folder: Path) -> str:
    """Return a hash of a model's files, without its `selfeval.json`, which is recorded as it is.

    Raises:
        CheckpointError: There is no such model.
        DatasetError: The folder, which remembers hashes, cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    hasher = Hasher(folder / "hashes.json")
    found = digest_of(identify_files(model, hasher, leave_out=(FILE_NAME,)))
    hasher.save()
    return found
