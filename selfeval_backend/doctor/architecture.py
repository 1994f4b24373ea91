"""Whether an engine would run a model: the engine is asked, before any weight is read."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.doctor.check import Check, failed_by, not_checked, ok, warning
from selfeval_backend.errors import AICError, MissingDependencyError
from selfeval_backend.model import EngineName, choose_engine, locate_model_files
from selfeval_backend.model_store import to_fetch

__all__ = ["check_architecture"]

_NAME = "architecture"
_OTHER = "Serve it with another engine, or use another model."


def check_architecture(model: str | Path, *, engine: EngineName | None) -> Check:
    """Return whether an engine would run a model, by the engine's own word.

    Args:
        model: A name in `model_store.KNOWN`, a model folder, or a model of the hub.
        engine: None: the one that `load_model` would choose.
    """
    if to_fetch(model):
        return not_checked(_NAME, "there are no files")
    try:
        folder = locate_model_files(model, with_weights=False)
    except AICError:
        return not_checked(_NAME, "there are no files")
    try:
        name = engine or choose_engine()
        return _asked_vllm(folder) if name == "vllm" else _asked_transformers(folder)
    except (ImportError, OSError) as error:  # torch itself, or libraries that it wants
        if isinstance(error, MissingDependencyError):
            return not_checked(_NAME, f"{error.package} is not installed")
        return not_checked(_NAME, f"a package cannot be imported: {error}")
    except AICError as error:
        return failed_by(_NAME, error, remedy=_OTHER)


def _asked_transformers(folder: Path) -> Check:
    from selfeval_backend.engine.transformers import check_transformers_model

    found = check_transformers_model(str(folder))
    if found.shortened is not None:
        return warning(
            _NAME,
            f"{found.name}: {found.shortened}",
            remedy="Keep prompts and answers within that, or serve it with vLLM.",
        )
    return ok(_NAME, f"{found.name}, {_tokens(found.context_length)}; transformers runs it")


def _asked_vllm(folder: Path) -> Check:
    from selfeval_backend.engine.vllm import check_vllm_model

    return ok(_NAME, f"{_tokens(check_vllm_model(str(folder)))}; vLLM runs it")


def _tokens(context_length: int) -> str:
    return f"{context_length:,} tokens of context"
