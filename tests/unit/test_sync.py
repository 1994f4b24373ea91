"""Coroutines from synchronous code: in callbacks, after a fork, behind Ctrl-C, at the end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import CancelledError

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.sync import iterate_sync, run_sync
from tests.children import run_child

pytestmark = pytest.mark.timeout(60)


async def seven() -> int:
    await asyncio.sleep(0)
    return 7


async def numbers(closed: list[str] | None = None) -> AsyncGenerator[int, None]:
    try:
        for number in range(3):
            yield number
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        if closed is not None:
            closed.append("closed")


def in_thread(function: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


# In callbacks: code on the loop that waits for another call.


@pytest.mark.parametrize(
    "ask",
    [
        lambda: run_sync(seven()),
        lambda: in_thread(lambda: run_sync(seven())),
        lambda: in_thread(lambda: in_thread(lambda: run_sync(seven()))),
        lambda: sum(iterate_sync(numbers())) + 4,
    ],
    ids=["here", "thread", "thread-in-thread", "stream"],
)
@pytest.mark.parametrize("how", ["call", "stream"])
def test_a_call_within_a_call_is_answered(ask: Callable[[], int], how: str) -> None:
    async def outer() -> int:
        return ask()

    async def items() -> AsyncGenerator[int, None]:
        yield ask()

    assert (run_sync(outer()) if how == "call" else sum(iterate_sync(items()))) == 7
    assert run_sync(seven()) == 7


def test_calls_within_each_other_are_answered_up_to_a_depth() -> None:
    async def deep(depth: int) -> int:
        return run_sync(deep(depth - 1)) if depth else await seven()

    assert run_sync(deep(3)) == 7
    with pytest.raises(ConfigurationError, match="within each other"):
        run_sync(deep(1000))
    assert run_sync(seven()) == 7


def test_a_callback_that_takes_long_does_not_hold_up_other_threads() -> None:
    begun, over = threading.Event(), threading.Event()

    async def outer() -> bool:
        begun.set()
        return over.wait(20)

    held = threading.Thread(target=lambda: run_sync(outer()))
    held.start()
    begun.wait()
    assert [run_sync(seven()) for _ in range(3)] == [7] * 3
    over.set()
    held.join()


def test_a_call_in_the_loop_of_a_notebook_is_answered() -> None:
    async def cell() -> int:
        return run_sync(seven()) + len(list(iterate_sync(numbers())))

    assert asyncio.run(cell()) == 10


def test_a_stream_that_is_read_on_its_own_loop_is_refused_at_once() -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        next(readers[0])

    readers: list[Generator[int, None, None]] = [iterate_sync(items())]
    assert next(readers[0]) == 1
    with pytest.raises(ValueError, match="already executing"):
        next(readers[0])

    async def read() -> int:
        return next(other)

    other = iterate_sync(numbers())
    next(other)
    with pytest.raises(ConfigurationError, match="read where it was begun"):
        run_sync(read())
    assert run_sync(seven()) == 7


# What ends a call.


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("how", ["call", "stream"])
def test_what_would_end_a_loop_ends_one_call(error: BaseException, how: str) -> None:
    async def outer() -> int:
        raise error

    async def items() -> AsyncGenerator[int, None]:
        raise error
        yield 1

    with pytest.raises(type(error)):
        run_sync(outer()) if how == "call" else list(iterate_sync(items()))
    assert run_sync(seven()) == 7


def test_a_loop_that_a_task_of_others_has_ended_is_replaced() -> None:
    async def leave() -> None:
        raise SystemExit

    async def outer() -> None:
        await asyncio.create_task(leave())

    with pytest.raises((SystemExit, CancelledError)):
        run_sync(outer())
    assert run_sync(seven()) == 7


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such timer")
@pytest.mark.parametrize("held_up", [False, True], ids=["running", "held-up"])
def test_ctrl_c_cancels_what_runs_and_what_has_not_begun(held_up: bool) -> None:
    ended: list[str] = []
    begun, over = threading.Event(), threading.Event()

    async def long() -> None:
        ended.append("begun")
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            ended.append("cancelled")

    async def hold() -> bool:
        begun.set()
        return over.wait(20)

    holder = threading.Thread(target=lambda: run_sync(hold()))
    if held_up:
        holder.start()
        begun.wait()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1 if held_up else 0.4)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_sync(long())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        over.set()
    assert time.monotonic() - began < 5
    assert ended == ([] if held_up else ["begun", "cancelled"])
    if held_up:
        holder.join()
    assert run_sync(seven()) == 7


# Streams that are left.


def test_a_stream_that_is_collected_on_its_own_loop_is_closed() -> None:
    closed: list[str] = []

    async def collect() -> None:
        items = iterate_sync(numbers(closed))
        await asyncio.to_thread(next, items)
        del items  # on the loop that would have to close it
        gc.collect()
        for _ in range(1000):
            await asyncio.sleep(0 if closed else 0.01)

    run_sync(collect())
    assert closed == ["closed"]


AT_THE_END = """
import asyncio, sys, threading, time
from contextlib import suppress
from selfeval_backend.sync import iterate_sync, run_sync

async def numbers():
    try:
        for number in range(9):
            yield number
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        print("closed", flush=True)

async def long():
    begun.set()
    try:
        await asyncio.sleep(60)
    finally:
        print("cancelled", flush=True)

def wait():
    with suppress(Exception):
        run_sync(long())

begun = threading.Event()
items = iterate_sync(numbers())
next(items)
kept = [items]
threading.Thread(target=wait, daemon=True).start()
begun.wait()
"""


@pytest.mark.parametrize(
    ("last", "status"), [("", 0), ("sys.exit(3)", 3), ("kept.append(kept)", 0)]
)
def test_what_is_open_at_the_interpreters_end_is_closed_quietly(last: str, status: int) -> None:
    ended = run_child(AT_THE_END + last)
    assert (ended.status, ended.stderr) == (status, "")
    assert sorted(ended.stdout.split()) == ["cancelled", "closed"]
