"""An engine that runs a transformers model in this process."""

from __future__ import annotations

from selfeval_backend.errors import MissingDependencyError

try:
    from selfeval_backend.engine.transformers.engine import (
        TransformersEngine,
        check_transformers_model,
        load_transformers_engine,
    )
except ImportError as _error:  # a missing name of ours is a bug, and is raised as it is
    if (_error.name or "").partition(".")[0] not in ("torch", "transformers"):
        raise
    raise MissingDependencyError(str(_error.name), extra="transformers") from _error

__all__ = ["TransformersEngine", "check_transformers_model", "load_transformers_engine"]
