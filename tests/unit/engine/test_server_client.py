"""HTTP with one server: what becomes of its connections."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from selfeval_backend.engine.server import pools as pools_module
from selfeval_backend.engine.server.client import Client

EVENTS = ('{"text": "one\u2028line"}', '{"text": "and\x85another"}')
"""Letters that Python takes for ends of lines, and servers send as they are."""


class CountingServer(ThreadingHTTPServer):
    """Answers everything with an empty JSON object, and counts its open connections."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.changed = threading.Condition()
        self.num_open = 0

    def count(self, change: int) -> None:
        with self.changed:
            self.num_open += change
            self.changed.notify_all()

    def comes_to(self, num_open: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.num_open == num_open, timeout=5)


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    server: CountingServer

    def setup(self) -> None:
        super().setup()
        self.server.count(+1)

    def finish(self) -> None:
        super().finish()
        self.server.count(-1)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        body = "".join(f"data: {event}\n\n" for event in (*EVENTS, "[DONE]")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: CountingServer) -> Client:
    return new_client(server)


def new_client(server: CountingServer) -> Client:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Client(url, api_key=None, timeout_s=5, max_retries=0)


async def ask(client: Client, times: int) -> None:
    await asyncio.gather(*(client.get("/models") for _ in range(times)))


def test_connections_are_kept_within_a_loop_and_closed_when_it_ends(
    client: Client, server: CountingServer
) -> None:
    async def twice() -> None:
        await ask(client, 3)
        assert server.num_open == 3
        await ask(client, 3)
        assert server.num_open == 3

    for _ in range(2):
        asyncio.run(twice())
        assert server.comes_to(0)


async def test_closing_drops_the_connections_and_the_client_can_be_used_again(
    client: Client, server: CountingServer
) -> None:
    for _ in range(2):
        await ask(client, 2)
        assert server.num_open == 2
        await client.aclose()
        assert await asyncio.to_thread(server.comes_to, 0)


@pytest.mark.timeout(120)
async def test_connections_that_are_not_used_are_closed_after_a_while(
    client: Client, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "_IDLE_S", 0.3)
    await ask(client, 5)
    assert server.num_open == 5
    for _ in range(8):  # one of them is enough, and stays
        await ask(client, 1)
        await asyncio.sleep(0.1)
    assert await asyncio.to_thread(server.comes_to, 1)
    assert await asyncio.to_thread(server.comes_to, 0)
    await ask(client, 2)
    assert server.num_open == 2


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.timeout(120)
async def test_connections_of_another_loop_are_closed_from_here(
    client: Client, server: CountingServer, other_loop: asyncio.AbstractEventLoop
) -> None:
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(client, 2), other_loop))
    assert server.num_open == 2
    await client.aclose()
    assert await asyncio.to_thread(server.comes_to, 0)


@pytest.mark.timeout(120)
def test_a_client_that_is_forgotten_leaves_no_connection(
    server: CountingServer, other_loop: asyncio.AbstractEventLoop
) -> None:
    client = new_client(server)
    client.itself = client  # type: ignore[attr-defined]  # only the garbage collector gets it
    asyncio.run_coroutine_threadsafe(ask(client, 2), other_loop).result()
    assert server.num_open == 2
    del client
    gc.collect()
    assert server.comes_to(0)


async def test_an_event_ends_at_a_line_feed_alone(client: Client) -> None:
    texts = [event["text"] async for event in client.stream("/completions", {})]
    assert texts == ["one\u2028line", "and\x85another"]
