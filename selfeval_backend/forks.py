"""What a child process finds after a fork: memory, but no thread of its parent's.

A lock that another thread held stays held for ever, a loop or an engine that a thread drove stands
still, and connections are shared with the parent. So locks are renewed, what belongs to the parent
is forgotten without being closed, and what cannot be had again is refused.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import NoReturn

from selfeval_backend.errors import ConfigurationError

__all__ = ["Home", "Lock", "check_may_load", "in_child", "in_child_too"]

_REMEDY = (
    "A fork takes no threads along. Load it in the child alone (gunicorn: in post_fork or without "
    '--preload; Celery: in worker_process_init), start children with "spawn", or run a server and '
    "name its base_url."
)

_hooks: set[weakref.WeakMethod[Callable[[], None]]] = set()
_engine_left_behind = False
"""Whether an ancestor had loaded an engine when it forked."""
_engine_loaded = False


def in_child(method: Callable[[], None]) -> None:
    """Have a bound method called in every child that is forked while its object lives."""
    _hooks.add(weakref.WeakMethod(method, _hooks.discard))


def in_child_too(function: Callable[[], None]) -> None:
    """Have a function called in every child that is forked; for modules, which live for ever."""
    if hasattr(os, "register_at_fork"):  # Windows knows no fork
        os.register_at_fork(after_in_child=function)


class Lock:
    """A lock that its holder may take again, and that nobody holds in a new child."""

    __slots__ = ("__weakref__", "_inner")

    def __init__(self) -> None:
        self._renew()
        in_child(self._renew)

    def __enter__(self) -> None:
        self._inner.acquire()

    def __exit__(self, *_: object) -> None:
        self._inner.release()

    def _renew(self) -> None:
        self._inner = threading.RLock()


class Home:
    """The process that an engine was loaded in, and that alone can use it.

    Args:
        engine: Its name, as users spell it.

    Raises:
        ConfigurationError: As `check_may_load`.
    """

    __slots__ = ("_engine", "_pid")

    def __init__(self, engine: str) -> None:
        global _engine_loaded
        check_may_load(engine)
        self._engine = engine
        self._pid = os.getpid()
        _engine_loaded = True

    @property
    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Refuse to go on in another process.

        Raises:
            ConfigurationError: This is a child, forked from the process that loaded the engine.
        """
        if not self.is_here:
            _refuse(
                f"{self._engine}, loaded in process {self._pid}",
                f"an engine of this process, {os.getpid()}",
            )


def check_may_load(engine: str) -> None:
    """Refuse to load an engine where it could not compute.

    Raises:
        ConfigurationError: An ancestor of this process had loaded one when it forked: torch's
            threads are gone, and whoever computes would wait for them.
    """
    if _engine_left_behind:
        _refuse(engine, "none in a child of a process that had loaded one before it forked")


def _refuse(engine: str, allowed: str) -> NoReturn:
    raise ConfigurationError("engine", engine, allowed, remedy=_REMEDY)


def _start_over() -> None:
    global _engine_left_behind
    _engine_left_behind = _engine_left_behind or _engine_loaded
    for hook in list(_hooks):
        if (method := hook()) is not None:
            method()


in_child_too(_start_over)
