"""Run coroutines from synchronous code, also inside a running event loop (a notebook)."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["iterate_sync", "run_sync"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on the process's background loop, and return its result.

    An exception in the calling thread (Ctrl-C) cancels the coroutine and waits until it has
    cleaned up, so that nothing keeps generating.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            _wait_for_cleanup()
        raise


def iterate_sync(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an asynchronous generator that runs on the process's background loop.

    However it is left, the asynchronous generator is closed.
    """

    async def step() -> list[T]:
        try:
            return [await anext(items)]
        except StopAsyncIteration:
            return []

    try:
        while item := run_sync(step()):
            yield item[0]
    finally:
        # At the interpreter's end the loop's thread is gone, and would never answer.
        if not sys.is_finalizing():
            with suppress(RuntimeError):  # a step was interrupted, and is still cleaning up
                run_sync(items.aclose())


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aic-loop", daemon=True).start()
        return _loop


def _wait_for_cleanup() -> None:
    """Let the loop turn until cancelled tasks had their chance to close their streams."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), _background_loop()).result(timeout=5)
