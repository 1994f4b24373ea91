"""httpx clients of each event loop: a connection belongs to the loop that opened it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

from selfeval_backend.forks import Lock, in_child

__all__ = ["ClientPools"]

_IDLE_S = 5.0
"""A connection that was not used for so long is closed: vLLM's server has dropped it by then."""


class ClientPools:
    """Lends clients, one request at a time each, and closes them when their event loop ends.

    httpx looks through all of a client's connections for every request, which with 16 at once is
    half of what a request costs: hence one connection a client.

    Args:
        new_client: Makes one more.
    """

    def __init__(self, new_client: Callable[[], httpx.AsyncClient]) -> None:
        self._new_client = new_client
        self._lock = Lock()
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        self._of_parent: list[object] = []
        in_child(self._leave_to_parent)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client for one request."""
        pool = await self._pool()
        client = pool.idle.pop().client if pool.idle else self._new_client()
        pool.all.add(client)
        try:
            yield client
        finally:
            pool.take_back(client)

    async def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        with self._lock:
            pool = self._pools.get(loop)
        if pool is None:
            pool = _Pool()
            pool.until_loop_ends = self._close_at_end_of(loop, pool)
            await anext(pool.until_loop_ends)
            with self._lock:
                for ended in [other for other in self._pools if other.is_closed()]:
                    del self._pools[ended]
                self._pools[loop] = pool
        return pool

    async def _close_at_end_of(
        self, loop: asyncio.AbstractEventLoop, pool: _Pool
    ) -> AsyncGenerator[None, None]:
        """Wait to be closed, as a loop that ends does with every asynchronous generator."""
        try:
            yield
        finally:
            with self._lock:
                self._pools.pop(loop, None)
            pool.stop_sweeping()
            await asyncio.gather(*(client.aclose() for client in pool.all))

    def _leave_to_parent(self) -> None:
        # Kept, as closing them would say goodbye on connections that the parent goes on using.
        self._of_parent.append(self._pools)
        self._pools = {}

    async def aclose(self) -> None:
        """Close all clients: those of this loop now, those of others soon."""
        here = self._pools.get(asyncio.get_running_loop())
        if here is not None:
            await here.until_loop_ends.aclose()
        self.close_soon()

    def close_soon(self) -> None:
        """Have every loop that runs close its clients, from any thread."""
        for loop, pool in list(self._pools.items()):
            with suppress(RuntimeError):  # it has ended meanwhile, and closed them
                loop.call_soon_threadsafe(pool.start_closing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Idle:
    client: httpx.AsyncClient
    since_s: float
    """On the loop's clock."""


@dataclass(slots=True)
class _Pool:
    all: set[httpx.AsyncClient] = field(default_factory=set)
    idle: deque[_Idle] = field(default_factory=deque)
    """The one that was used last stands last, and is lent first."""
    until_loop_ends: AsyncGenerator[None, None] = field(init=False)
    closing: asyncio.Task[None] | None = None
    sweeping: asyncio.TimerHandle | None = None

    def take_back(self, client: httpx.AsyncClient) -> None:
        """Keep a client for the next request, but not for long."""
        loop = asyncio.get_running_loop()
        self.idle.append(_Idle(client=client, since_s=loop.time()))
        if self.sweeping is None:
            self.sweeping = loop.call_later(_IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long, and check again while anything is idle."""
        loop = asyncio.get_running_loop()
        stale: list[httpx.AsyncClient] = []
        while self.idle and self.idle[0].since_s + _IDLE_S <= loop.time():
            stale.append(self.idle.popleft().client)
        if stale:
            self.closing = loop.create_task(self._close_stale(stale))
        self.sweeping = None
        if self.idle:
            self.sweeping = loop.call_at(self.idle[0].since_s + _IDLE_S, self._sweep)

    async def _close_stale(self, stale: list[httpx.AsyncClient]) -> None:
        await asyncio.gather(*(client.aclose() for client in stale))
        self.all.difference_update(stale)

    def stop_sweeping(self) -> None:
        """Stop checking."""
        if self.sweeping is not None:
            self.sweeping.cancel()

    def start_closing(self) -> None:
        """Close all of them in a task of the running loop."""
        self.closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        await self.until_loop_ends.aclose()
