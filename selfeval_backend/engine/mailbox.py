"""Between event loops and the worker thread: what goes in is batched, what comes out is posted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Mailbox", "Outbox", "Postman"]

Item = TypeVar("Item")
Command = TypeVar("Command")


class Mailbox(Generic[Item]):
    """Items for one consumer, who waits on the event loop that made it."""

    __slots__ = ("_items", "_waiter", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._items: deque[Item | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Item | Exception) -> None:
        """Add an item; on the mailbox's own loop only."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Item:
        """Wait for the next item, and raise it if it is an exception."""
        while not self._items:
            self._waiter = self.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, Exception):
            raise item
        return item


class _Addressee(Protocol):
    """A mailbox, whatever it is for: each takes an exception."""

    loop: asyncio.AbstractEventLoop

    def put(self, item: Exception) -> None: ...


class Postman:
    """Collects what one step has for its consumers, and wakes each event loop once."""

    def __init__(self) -> None:
        self._posts: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}

    def post(self, mailbox: Mailbox[Item], item: Item) -> None:
        """Put an item by for delivery."""
        self._posts.setdefault(mailbox.loop, []).append(lambda: mailbox.put(item))

    def fail(self, mailbox: _Addressee, error: Exception) -> None:
        """Put an exception by for delivery."""
        self._posts.setdefault(mailbox.loop, []).append(lambda: mailbox.put(error))

    def deliver(self) -> None:
        """Hand everything over."""
        posts, self._posts = self._posts, {}
        for loop, puts in posts.items():
            # A loop that was closed has no consumers left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_call_all, puts)


class Outbox(Generic[Command]):
    """Batches what the tasks of one event loop ask for in the same turn of the loop.

    Without it the worker would take up the first of many requests made together, alone.
    """

    def __init__(self, send: Callable[[list[Command]], None]) -> None:
        self._send = send
        self._local = threading.local()  # a running loop belongs to one thread

    def put(self, command: Command) -> None:
        """Send a command with the others of this turn."""
        loop = asyncio.get_running_loop()
        pending: list[Command] | None = getattr(self._local, "pending", None)
        if pending is None or self._local.loop is not loop:
            pending = []
            self._local.pending, self._local.loop = pending, loop
            loop.call_soon(self._flush, pending)
        pending.append(command)

    def _flush(self, pending: list[Command]) -> None:
        self._local.pending = self._local.loop = None
        self._send(pending)


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
