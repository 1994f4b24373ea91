"""How long an event loop is held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

__all__ = ["longest_block_s"]

_TICK_S = 0.005


async def longest_block_s(work: Callable[[], Awaitable[Any]]) -> float:
    """Return the longest time that the event loop did not turn while it did something, seconds.

    Time that its thread was ready to run and other processes had the processors is not counted,
    where the system tells it (Linux).

    Args:
        work: Begins it.
    """
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last, waited = time.monotonic(), _waited_s()
        while True:
            await asyncio.sleep(_TICK_S)
            now, now_waited = time.monotonic(), _waited_s()
            longest = max(longest, now - last - _TICK_S - (now_waited - waited))
            last, waited = now, now_waited

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(2 * _TICK_S)  # it ticks before the work begins
    try:
        await work()
        await asyncio.sleep(2 * _TICK_S)  # the last gap too
    finally:
        ticker.cancel()
    return longest


def _waited_s() -> float:
    """Return how long this thread has waited for a processor so far, seconds."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
