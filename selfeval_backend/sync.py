"""Run coroutines from synchronous code: inside a running event loop too, and inside callbacks.

They run on a loop in the background. What a user hangs in (`on_progress`, a handler, a policy) is
called on that loop, and holds it up. A call that is made from there, by its thread or by another
one that it waits for, would wait for itself: it goes to the next loop in the background.

Why not anyio's blocking portal: it hands a call in by waiting for the loop, which a callback may be
holding up, so that neither another loop nor Ctrl-C gets its turn; it cancels again at every await,
so that what is left cannot be counted; and a callback that calls `sys.exit` ends all its calls.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import itertools
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.forks import Lock, in_child_too

__all__ = ["contained", "iterate_sync", "run_sync"]

T = TypeVar("T")

_DEEPEST = 4
"""Most calls within callbacks of each other. Where each is told of every step, and calls
again, their number grows as a power of it."""
_HELD_UP_AFTER_S = 0.2
"""If the first loop did not begin a call within this time, a callback holds it up."""
_ALSO_HELD_UP_AFTER_S = 0.1
_CLEANS_UP_WITHIN_S = 5.0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop in the background, and return its result.

    An exception in the calling thread (Ctrl-C) cancels the coroutine and waits until it has
    cleaned up, so that nothing keeps generating.

    Raises:
        ConfigurationError: Callbacks call the model within each other without end.
        What the coroutine raises.
    """
    return _begun(coroutine).result()


def iterate_sync(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an asynchronous generator that runs on a loop in the background.

    However it is left, the asynchronous generator is closed.

    Raises:
        ConfigurationError: It is read in a callback of its own loop, or in a child process.
        What the generator raises.
    """

    async def step() -> list[T]:
        try:
            return [await anext(items)]
        except StopAsyncIteration:
            return []

    call = _begun(step())
    loop = call.loop
    try:
        while item := call.result():
            yield item[0]
            call = loop.begin(_Call(step(), loop))
    finally:
        loop.finish(items)


async def contained(begin: Callable[[], Awaitable[T]]) -> concurrent.futures.Future[T]:
    """Await what a function returns; return its result or exception, `sys.exit`'s among them.

    That one and Ctrl-C's would end the event loop if they left a task.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    try:
        future.set_result(await begin())
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # whoever waits is told, whatever it is
        future.set_exception(error)
    return future


class _Call(Generic[T]):
    """A coroutine that a thread waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: _Loop) -> None:
        self.loop = loop
        self._coroutine = coroutine
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._task: asyncio.Task[concurrent.futures.Future[T]] | None = None

    def begin(self) -> None:
        """Begin it, unless it was given up; on its loop."""
        if self._future.set_running_or_notify_cancel():
            _within.set((*_within.get(), self.loop))
            self._task = asyncio.get_running_loop().create_task(contained(lambda: self._coroutine))
            self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[concurrent.futures.Future[T]]) -> None:
        if task.cancelled():
            self._coroutine.close()  # it may not have begun
            self._future.set_exception(concurrent.futures.CancelledError())
        elif (error := task.result().exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result().result())

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end, and cancel it if the waiting is interrupted."""
        try:
            concurrent.futures.wait([self._future], timeout_s)
        except BaseException:
            self._cancel()
            raise

    def result(self) -> T:
        """Wait for its end, and return its result or raise what it raised."""
        self.wait()
        try:
            return self._future.result()
        finally:
            del self._future  # it holds an exception that holds this frame

    def give_up(self) -> bool:
        """Return whether it had not begun; then it never will."""
        return self._future.cancel()

    def _cancel(self) -> None:
        """Cancel it, and wait until it has cleaned up."""
        if self.give_up():
            self._coroutine.close()
            return
        self.loop.call_soon(self._cancel_task)
        concurrent.futures.wait([self._future], _CLEANS_UP_WITHIN_S)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="aic-loop", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is its own."""
        return self._thread is threading.current_thread()

    @property
    def runs(self) -> bool:
        """Whether its thread lives: not behind its end, and not in a child process."""
        return self._thread.is_alive() and self in _loops

    def call_soon(self, function: Any, *arguments: Any) -> None:
        """Have a function called on it; nothing once it has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def begin(self, call: _Call[T]) -> _Call[T]:
        """Begin a call on it as soon as the loop gets to it."""
        if self.is_here or not self.runs:
            call.give_up()
            call._coroutine.close()
            raise ConfigurationError(
                "stream",
                "one that is read in a callback of the model, or in another process",
                "one that is read where it was begun",
            )
        self.call_soon(call.begin)
        return call

    def finish(self, items: AsyncGenerator[T, None]) -> None:
        """Close a generator that ran on it, and wait for that where waiting is possible."""
        # At the interpreter's end its thread is gone, and would never answer.
        if sys.is_finalizing() or not self.runs:
            return
        call = _Call(_close(items), self)
        self.call_soon(call.begin)
        # Garbage is collected in any thread. One that this loop may wait for must not wait for it.
        if not any(loop.is_here for loop in list(_loops)):
            call.wait(_CLEANS_UP_WITHIN_S)

    def stop(self) -> None:
        """Cancel what runs, let it clean up, and end the thread."""
        self.call_soon(self._stopped.set)
        self._thread.join(_CLEANS_UP_WITHIN_S)

    def stop_copy(self) -> None:
        """In a child that a callback has forked: end the child, with status 1, behind it."""
        self._loop.stop()

    def _run(self) -> None:
        loop, process = self._loop, os.getpid()
        try:
            with suppress(SystemExit, KeyboardInterrupt):  # of a task that we have not made
                loop.run_until_complete(self._until_stopped())
        finally:
            if os.getpid() != process:  # a copy, which must not touch what its parent goes on using
                os._exit(1)
            loop.run_until_complete(_cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _until_stopped(self) -> None:
        await self._stopped.wait()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    with suppress(RuntimeError):  # a step was interrupted, and is still cleaning up
        await items.aclose()


_lock = Lock()
_loops: list[_Loop] = []
_of_parent: list[_Loop] = []
"""In a child: its parent's. Closing them would break what they share with it."""


_within: ContextVar[tuple[_Loop, ...]] = ContextVar("aic_within", default=())
"""Loops that run the calls in whose callbacks this is."""


def _begun(coroutine: Coroutine[Any, Any, T]) -> _Call[T]:
    """Begin a coroutine on the first loop that takes it."""
    within = _within.get()
    if len(within) >= _DEEPEST:
        coroutine.close()
        raise ConfigurationError(
            "on_progress",
            f"callbacks that call the model within each other, {_DEEPEST} deep",
            "callbacks that come to an end",
            remedy="Calls that are made in a callback must not have a callback themselves.",
        )
    patience_s = _HELD_UP_AFTER_S
    for loop in filter(lambda loop: not (loop.is_here or loop in within), _endless_loops()):
        call = loop.begin(_Call(coroutine, loop))
        call.wait(patience_s)
        if not call.give_up():
            return call
        patience_s = _ALSO_HELD_UP_AFTER_S
    raise AssertionError("there is always another loop")


def _endless_loops() -> Iterator[_Loop]:
    for place in itertools.count():
        yield _loop(place)


def _loop(place: int) -> _Loop:
    """Return the loop at a place, or the one behind the last."""
    with _lock:
        if place >= len(_loops):
            if not _loops:
                atexit.register(_stop_all)
            _loops.append(_Loop())
            return _loops[-1]
        if not _loops[place].runs:
            _loops[place] = _Loop()
        return _loops[place]


def _stop_all() -> None:
    """End every loop before the interpreter does, so that nothing is destroyed half-way."""
    with _lock:
        ending, _loops[:] = list(_loops), []
    for loop in reversed(ending):
        loop.stop()


def _forget() -> None:
    for loop in _loops:
        if loop.is_here:
            loop.stop_copy()
    _of_parent.extend(_loops)
    _loops.clear()


in_child_too(_forget)
