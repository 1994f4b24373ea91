"""A long run over a vLLM server that is killed, stopped and restarted, behind a network that fails.

Calls of all kinds (synchronous, asynchronous, streams, streams that are left, calls that are
cancelled, calls with tools) go in rounds. In some rounds the server's process is stopped for a
while, or killed and started again; in all of them a proxy delays, cuts and garbles what the server
sends. When a round is over, nothing may be left: on the server, of tasks, threads and handles.

Every call must end with an answer or an error of this project. Memory, handles, threads and tasks
of the last quarter of the rounds are compared with those of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import gc
import logging
import os
import random
import signal
import statistics
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Figure, make_parser, report, serve

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.errors import AICError
from selfeval_backend.model import SelfEvaluatingModel, Server, load_model

if TYPE_CHECKING:
    from tests.vllm_server import VllmServer

__all__ = ["Bounds", "Chaos", "Proxy", "Soak", "main"]

_CALLS_A_ROUND = 50
_AT_ONCE = 12
_HUNG_AFTER_S = 120.0
_LEFT_WITHIN_S = 10.0
_METRICS = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_SETTINGS: dict[str, Any] = {"max_samples": 4, "max_tokens": 48, "prune_at": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much more than in the second quarter there may be in the last."""

    memory_mib: float = 48.0
    handles: float = 30.0
    """A connection is three of them here, as the proxy is in this process."""
    threads: float = 4.0
    tasks: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """What the proxy does to one piece of what a server sends; each in [0, 1]."""

    delay: float = 0.02
    cut: float = 0.001
    garble: float = 0.001
    longest_delay_s: float = 0.3


class Proxy:
    """Passes bytes between clients and a server, and does harm to what the server sends.

    Args:
        chaos: How often.
        seed: Of what is drawn.
    """

    def __init__(self, chaos: Chaos, *, seed: int) -> None:
        self.target_port = 0
        """Where the server listens now; 0: nowhere."""
        self.num_harmed: collections.Counter[str] = collections.Counter()
        self._chaos = chaos
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Run it in a thread of its own; gives the URL that clients use."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
            writers.append(back)
            ways = {
                asyncio.create_task(self._pass(reader, back, harmed=False)),
                asyncio.create_task(self._pass(there, writer, harmed=True)),
            }
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody listens: the client sees a closed connection
        finally:
            for each in writers:
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, harmed: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                sent = await self._harmed(piece) if harmed else piece
                writer.write(sent)
                await writer.drain()
                if len(sent) < len(piece):
                    return

    async def _harmed(self, piece: bytes) -> bytes:
        """Return a piece late, garbled, or only its beginning; else as it is."""
        drawn, chaos = self._random.random(), self._chaos
        if drawn < chaos.cut:
            self.num_harmed["cut"] += 1
            return piece[: len(piece) // 2]
        if drawn < chaos.cut + chaos.garble:
            self.num_harmed["garbled"] += 1
            place = self._random.randrange(len(piece))
            return piece[:place] + bytes([self._random.randrange(256)]) + piece[place + 1 :]
        if drawn < chaos.cut + chaos.garble + chaos.delay:
            self.num_harmed["delayed"] += 1
            await asyncio.sleep(self._random.uniform(0, chaos.longest_delay_s))
        return piece


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Calls:
    """One call of each kind, by name; each returns what came of it.

    Args:
        model: Behind the proxy.
        seed: Of what is drawn.
    """

    def __init__(self, model: SelfEvaluatingModel, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._chat = ChatAdaptive.from_model(model, **_SETTINGS)
        self._llm = AdaptiveLLM.from_model(model, **_SETTINGS)
        self.kinds: dict[str, Callable[[str], Awaitable[str]]] = {
            "asynchronous": self.asynchronous,
            "stream": self.stream,
            "left": self.left,
            "cancelled": self.cancelled,
            "tools": self.tools,
            "forced tools": self.forced_tools,
            "LlamaIndex": self.llama_index,
            "synchronous": functools.partial(asyncio.to_thread, self._synchronous),
            "synchronous stream": functools.partial(asyncio.to_thread, self._stream),
            "synchronous left": functools.partial(asyncio.to_thread, self._left),
        }

    async def asynchronous(self, prompt: str) -> str:
        """Ask and wait."""
        await self._chat.ainvoke(prompt)
        return "answered"

    async def stream(self, prompt: str) -> str:
        """Read a stream to its end."""
        async for _ in self._chat.astream(prompt):
            pass
        return "answered"

    async def left(self, prompt: str) -> str:
        """Leave a stream at its first piece."""
        async with aclosing(self._chat.astream(prompt)) as stream:  # type: ignore[type-var]
            await anext(stream)
        return "left"

    async def cancelled(self, prompt: str) -> str:
        """Cancel a call at any moment."""
        task = asyncio.create_task(self._chat.ainvoke(prompt))
        await asyncio.wait({task}, timeout=self._random.uniform(0, 0.5))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "answered"

    async def tools(self, prompt: str) -> str:
        """Ask with a tool that may be called."""
        await self._chat.bind_tools([add]).ainvoke(prompt)
        return "answered"

    async def forced_tools(self, prompt: str) -> str:
        """Ask for the call of a tool, which is drawn under a grammar."""
        await self._chat.bind_tools([add], tool_choice="any").ainvoke(prompt)
        return "answered"

    async def llama_index(self, prompt: str) -> str:
        """Ask as LlamaIndex does."""
        await self._llm.acomplete(prompt)
        return "answered"

    def _synchronous(self, prompt: str) -> str:
        self._chat.invoke(prompt)
        return "answered"

    def _stream(self, prompt: str) -> str:
        for _ in self._llm.stream_complete(prompt):
            pass
        return "answered"

    def _left(self, prompt: str) -> str:
        with closing(self._chat.stream(prompt)) as stream:  # type: ignore[type-var]
            next(stream)
        return "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """What there is of this process when a round is over."""

    memory_mib: float
    handles: int
    threads: int
    tasks: int
    left_on_server: float


@dataclass(slots=True, kw_only=True)
class Soak:
    """A run, and what came of it."""

    proxy: Proxy
    seed: int
    server: VllmServer | None = None
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    untyped: list[str] = field(default_factory=list)
    num_hung: int = 0
    noise: list[str] = field(default_factory=list)
    rounds: list[Quiet] = field(default_factory=list)
    harm: collections.Counter[str] = field(default_factory=collections.Counter)
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether there is a server."""
    num_without_server: int = 0
    """Calls that may still be begun while there is no server; the others wait for one."""

    def run(self, num_calls: int, url: str) -> None:
        """Make all calls, in rounds.

        Args:
            num_calls: In all.
            url: The proxy's.
        """
        num_rounds = max(3, num_calls // _CALLS_A_ROUND)
        sizes = [num_calls // num_rounds + (n < num_calls % num_rounds) for n in range(num_rounds)]
        with ExitStack() as servers, self._listening():
            self._start(servers)
            model = self._load(url)
            calls = Calls(model, seed=self.seed)
            asyncio.run(self._rounds(sizes, calls, servers))
            asyncio.run(model.aclose())

    def _load(self, url: str) -> SelfEvaluatingModel:
        """Connect through the proxy, which may take several tries."""
        for _ in range(20):
            try:
                server = Server(base_url=url, timeout_s=6.0, max_retries=2)
                return load_model("reference", server=server)
            except AICError as error:
                print(f"connecting again: {error}", file=sys.stderr)
        raise RuntimeError("no connection in 20 tries")

    async def _rounds(self, sizes: Sequence[int], calls: Calls, servers: ExitStack) -> None:
        self.is_up.set()
        for number, size in enumerate(sizes):
            harm = {1: self._stop, 2: self._kill, 5: self._stop}.get(number % 8)
            doing = None if harm is None else asyncio.create_task(harm(servers))
            await self._round(size, calls)
            if doing is not None:
                await doing
            self.rounds.append(await self._quiet())
            print(f"round {number + 1} of {len(sizes)}: {self.rounds[-1]}", file=sys.stderr)

    async def _round(self, size: int, calls: Calls) -> None:
        names = [name for _, name in zip(range(size), _forever(calls.kinds), strict=False)]
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str, number: int) -> None:
            async with room:
                await self._turn()
                await self._one(calls.kinds[name], name, f"Use {number}, 19 and 25 to make 41.")

        await asyncio.gather(*(one(name, number) for number, name in enumerate(names)))

    async def _turn(self) -> None:
        """Let a few calls fail for want of a server, and not all of a round."""
        if self.is_up.is_set():
            return
        if self.num_without_server:
            self.num_without_server -= 1
        else:
            await self.is_up.wait()

    async def _one(self, ask: Callable[[str], Awaitable[str]], name: str, prompt: str) -> None:
        task = asyncio.ensure_future(ask(prompt))
        await asyncio.wait({task}, timeout=_HUNG_AFTER_S)
        if not task.done():
            self.num_hung += 1
            self.outcomes["hung"] += 1
            self.untyped.append(f"{name} hung")
            task.cancel()
            return
        try:
            self.outcomes[task.result()] += 1
        except AICError as error:
            self.outcomes[type(error).__name__] += 1
            await asyncio.sleep(0.5)  # as a client does before its next try
        except BaseException:  # noqa: BLE001  # that is what is looked for
            self.outcomes["untyped"] += 1
            self.untyped.append(f"{name}: {traceback.format_exc()}")

    async def _stop(self, servers: ExitStack) -> None:
        """Stop the server's processes for longer than a client waits, and let them go on."""
        await asyncio.sleep(1)
        assert self.server is not None
        self.harm["stopped"] += 1
        os.killpg(self.server.process.pid, signal.SIGSTOP)
        await asyncio.sleep(8)
        os.killpg(self.server.process.pid, signal.SIGCONT)

    async def _kill(self, servers: ExitStack) -> None:
        """Kill the server's processes, and start others."""
        await asyncio.sleep(1)
        assert self.server is not None
        self.harm["killed"] += 1
        self.num_without_server = _AT_ONCE
        self.is_up.clear()
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.proxy.target_port = 0
        await asyncio.to_thread(self._start, servers)
        self.is_up.set()

    def _start(self, servers: ExitStack) -> None:
        servers.close()
        self.server = servers.enter_context(serve())
        self.proxy.target_port = int(self.server.base_url.rpartition(":")[2].partition("/")[0])

    async def _quiet(self) -> Quiet:
        left = await asyncio.to_thread(self._left_on_server)
        gc.collect()
        return Quiet(
            memory_mib=_resident_mib(),
            handles=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            tasks=len(asyncio.all_tasks()),
            left_on_server=left,
        )

    def _left_on_server(self) -> float:
        """Return the requests that a server still holds, once it had time to end them."""
        assert self.server is not None
        deadline = time.monotonic() + _LEFT_WITHIN_S
        while True:
            left = sum(self.server.metric(name) for name in _METRICS)
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Collect what asyncio and the interpreter complain of beside the calls."""
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self.noise.append(  # type: ignore[method-assign]
            record.getMessage()
        )
        logging.getLogger("asyncio").addHandler(handler)
        previous = sys.unraisablehook
        sys.unraisablehook = lambda found: self.noise.append(repr(found))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            sys.unraisablehook = previous
            logging.getLogger("asyncio").removeHandler(handler)

    def figures(self, bounds: Bounds) -> list[Figure]:
        """Return what is reported, each with its bound."""
        count = sum(self.outcomes.values())
        typed = count - self.outcomes["answered"] - self.outcomes["left"]
        typed -= self.outcomes["cancelled"] + len(self.untyped)
        return [
            _figure("calls", count),
            _figure("answered, left or cancelled", count - typed - len(self.untyped)),
            _figure("errors of this project", typed),
            _figure("other errors", len(self.untyped) - self.num_hung, at_most=0),
            _figure("hung", self.num_hung, at_most=0),
            _figure("complaints of asyncio", len(self.noise), at_most=0),
            _figure("left on a server", max(r.left_on_server for r in self.rounds), at_most=0),
            self._growth("memory_mib", "memory, MiB more", bounds.memory_mib),
            self._growth("handles", "handles more", bounds.handles),
            self._growth("threads", "threads more", bounds.threads),
            self._growth("tasks", "tasks more", bounds.tasks),
        ]

    def _growth(self, name: str, title: str, at_most: float) -> Figure:
        """Return how much more there was in the last quarter of the rounds than in the second."""
        values = [getattr(each, name) for each in self.rounds]
        quarter = max(1, len(values) // 4)
        grown = statistics.median(values[-quarter:]) - statistics.median(
            values[quarter : 2 * quarter]
        )
        low, high = min(values), max(values)
        return Figure(name=title, value=grown, low=low, high=high, at_most=at_most)


def _figure(name: str, value: float, *, at_most: float | None = None) -> Figure:
    return Figure(name=name, value=value, low=value, high=value, at_most=at_most)


def _forever(kinds: dict[str, Any]) -> Iterator[str]:
    while True:
        yield from kinds


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(str(__doc__), repetitions=1)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run it, and return 0, or 1 where a bound is broken."""
    arguments = _arguments(given)
    proxy = Proxy(Chaos(), seed=arguments.seed)
    soak = Soak(proxy=proxy, seed=arguments.seed)
    began = time.monotonic()
    with proxy.running() as url:
        soak.run(arguments.calls, url)
    for found in (*soak.untyped[:5], *soak.noise[:5]):
        print(found, file=sys.stderr)
    facts = {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began),
        "outcomes": dict(soak.outcomes),
        "server": dict(soak.harm),
        "proxy": dict(proxy.num_harmed),
    }
    print(facts)
    return report(soak.figures(Bounds()), arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
