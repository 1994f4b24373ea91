"""The process's one copy of each model: loaded once, while calls to other models do not wait."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from selfeval_backend.forks import Lock, in_child_too
from selfeval_backend.model.loading import EngineName, Server, choose_engine, load_model
from selfeval_backend.model.self_evaluating_model import SelfEvaluatingModel

__all__ = ["ModelSource", "ashared_model", "shared_model"]

_Loading: TypeAlias = "Future[SelfEvaluatingModel | None]"
"""None: loading it was interrupted, and another caller has to do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from: the arguments of `load_model`."""

    model: str | Path
    engine: EngineName | None = None
    engine_args: Mapping[str, Any] | None = None
    server: Server | None = None
    model_files: str | Path | None = None

    @property
    def key(self) -> Hashable:
        """Equal for the same model."""
        return (
            str(self.model),
            self.engine,
            json.dumps(dict(self.engine_args or {}), sort_keys=True, default=repr),
            self.server,
            None if self.model_files is None else str(self.model_files),
        )

    def load(self) -> SelfEvaluatingModel:
        """Load it; if no engine is named, share it with callers who name the engine it gets."""
        if self.server is None and self.engine is None:
            return shared_model(replace(self, engine=choose_engine()))
        return load_model(
            self.model,
            engine=self.engine,
            engine_args=self.engine_args,
            server=self.server,
            model_files=self.model_files,
        )


_lock = Lock()
"""Held while these are read or changed, never while a model loads."""
_loaded: dict[Hashable, SelfEvaluatingModel] = {}
_loading: dict[Hashable, _Loading] = {}


def shared_model(source: ModelSource) -> SelfEvaluatingModel:
    """Return the process's one copy of a model, loaded at the first call.

    Adapters use it, so that several of them on one model share its weights and its batches. Who
    asks while it loads gets the same model, or the same error; who asks then tries again. Errors
    are those of `load_model`.
    """
    found = None
    while found is None:
        found, loading, load = _look(source)
        if load is not None:
            return load()
        if loading is not None:
            found = loading.result()
    return found


async def ashared_model(source: ModelSource) -> SelfEvaluatingModel:
    """Do what `shared_model` does, without holding up the caller's loop or its threads."""
    found = None
    while found is None:
        found, loading, load = _look(source)
        if load is not None:
            # Not one of the loop's threads: they are few, and others wait for one of them.
            threading.Thread(target=_quietly(load), name="aic-loading", daemon=True).start()
        if loading is not None:
            found = await asyncio.wrap_future(loading)
    return found


def _look(
    source: ModelSource,
) -> tuple[SelfEvaluatingModel | None, _Loading | None, Callable[[], SelfEvaluatingModel] | None]:
    """Return the model if it is loaded; else what to wait for, and what this caller has to do."""
    key = source.key
    with _lock:
        if key in _loaded:
            return _loaded[key], None, None
        if key in _loading:
            return None, _loading[key], None
        loading: _Loading = Future()
        loading.set_running_or_notify_cancel()  # so that no waiter's end is the loading's
        _loading[key] = loading
    return None, loading, lambda: _load(source, key, loading)


def _load(source: ModelSource, key: Hashable, loading: _Loading) -> SelfEvaluatingModel:
    try:
        model = source.load()
    except BaseException as error:
        with _lock:
            del _loading[key]
        if isinstance(error, Exception):
            loading.set_exception(error)
        else:
            loading.set_result(None)
        raise
    with _lock:
        _loaded[key] = model
        del _loading[key]
    loading.set_result(model)
    return model


def _quietly(load: Callable[[], SelfEvaluatingModel]) -> Callable[[], None]:
    """Return what leaves errors to those who wait for the model."""

    def run() -> None:
        with suppress(Exception):
            load()

    return run


def _forget_unfinished() -> None:
    """In a child: nobody loads any more."""
    _loading.clear()


in_child_too(_forget_unfinished)
