"""Between event loops and the worker thread: what goes in is batched, what comes out is posted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from selfeval_backend.engine.base import Chunk
from selfeval_backend.engine.chunking import join_chunks
from selfeval_backend.errors import EngineError
from selfeval_backend.forks import Home

__all__ = ["Delivery", "Mailbox", "MailboxStream", "Outbox", "Postman"]

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

    def take_all(self) -> list[Item]:
        """Return what is there, without waiting; exceptions are dropped."""
        items = [item for item in self._items if not isinstance(item, Exception)]
        self._items.clear()
        return items


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a stream's consumer gets of its worker."""

    chunk: Chunk
    paused: bool = False
    """Whether the sample stands still until the consumer asks for the next chunk."""
    is_last_word: bool = False
    """Whether it answers a `drop`."""


class MailboxStream:
    """A `SampleStream` whose chunks a worker posts.

    Args:
        begin: Checks the request, and returns the mailbox that its chunks will come to.
        go_on: Asks the worker to start, and to go on where it paused.
        drop: Asks it to stop; from any thread. It answers with the last word, unless the sample
            has finished or failed.
        home: The engine's.
        prepare: Awaited before `begin`: what takes long; None: nothing.
    """

    def __init__(
        self,
        begin: Callable[[], Mailbox[Delivery]],
        *,
        go_on: Callable[[], None],
        drop: Callable[[], None],
        home: Home,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._prepare = prepare
        self._home = home
        self._begin = begin
        self._go_on = go_on
        self._drop = drop
        self._mailbox: Mailbox[Delivery] | None = None
        self._stands_still = True
        self._is_over = False  # nothing more will come
        self._is_dropped = False
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk; see `SampleStream`."""
        if self._is_over or self._is_dropped or self._is_closed:
            raise StopAsyncIteration
        self._home.check()
        try:
            if self._mailbox is None:
                if self._prepare is not None:
                    await self._prepare()
                    if self._is_closed:
                        raise StopAsyncIteration
                self._mailbox = self._begin()
            if self._stands_still:
                self._go_on()
            delivery = await self._mailbox.get()
        except Exception:
            self._is_over = True
            self._drop_once()
            raise
        except BaseException:  # cancelled: the last word is still to be had
            self._drop_once()
            raise
        self._stands_still = delivery.paused
        self._is_over = delivery.chunk.finish_reason is not None
        return delivery.chunk

    async def aclose(self) -> Chunk:
        """Stop generation, and return the last word; see `SampleStream`."""
        self._is_closed = True
        self._drop_once()
        rest: list[Chunk] = []
        with contextlib.suppress(EngineError):  # then there is no more to be had
            while self._home.is_here and self._mailbox is not None and not self._is_over:
                delivery = await self._mailbox.get()
                rest.append(delivery.chunk)
                finished = delivery.chunk.finish_reason is not None
                self._is_over = delivery.is_last_word or finished
        self._is_over = True
        return join_chunks(rest)

    def _drop_once(self) -> None:
        # At once, and needing no event loop: this may run while one shuts down.
        if self._mailbox is not None and not self._is_dropped:
            self._is_dropped = True
            self._drop()

    def __del__(self) -> None:
        self._drop_once()


class _Addressee(Protocol):
    """Any mailbox: each takes an exception."""

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
