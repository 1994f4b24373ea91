"""URLs and keys as people paste them: what is taken off, what is refused, and what never shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from langchain_core.load import dumps

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.adapter_fields import AdaptiveFields, check_fields
from selfeval_backend.engine.server import connect_server_engine
from selfeval_backend.engine.server.client import Client
from selfeval_backend.errors import (
    AICError,
    ConfigurationError,
    ContextLengthError,
    EngineConnectionError,
    EngineError,
    EngineRequestError,
)
from selfeval_backend.evaluation.tasks.judge import Judge
from selfeval_backend.model import Server
from selfeval_backend.web import bearer, check_key, check_url

SECRET = "sk-5ecret"
URL = "http://127.0.0.1:9/v1"


class TheServer(ThreadingHTTPServer):
    """Answers everything with one page, and keeps the headers that came."""

    daemon_threads = True

    def __init__(self, status: int, body: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status, self.body = status, body
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: TheServer

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        body = self.server.body.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def answering(status: int, body: str) -> Iterator[TheServer]:
    with TheServer(status, body) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(url: str, key: str | None = None) -> object:
    async def once() -> object:
        client = Client(url, api_key=key, timeout_s=5, max_retries=0)
        try:
            return await client.get("/models")
        finally:
            await client.aclose()

    return asyncio.run(once())


def shown(error: BaseException | None) -> str:
    """Return all that an error and those behind it say, whoever prints them."""
    said = ""
    while error is not None:
        said += f"{error} {error!r} {vars(error)} {error.args!r}"
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "pasted", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n", f"  {SECRET}\t", f"\ufeff{SECRET}\u200b\n"]
)
def test_a_key_is_sent_without_what_was_pasted_with_it(pasted: str) -> None:
    with answering(200, "{}") as server:
        get(server.url, pasted)
    assert server.keys == [f"Bearer {SECRET}"]
    assert Server(base_url=URL, api_key=pasted) == Server(base_url=URL, api_key=SECRET)


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_key_is_none(blank: str | None) -> None:
    assert check_key(blank) is None
    assert bearer(blank) == {}


UNUSABLE = [f"{SECRET}\nX: y", f"{SECRET}\x00", f"\x7f{SECRET}", f"{SECRET}…", f"“{SECRET}”", 5]


@pytest.mark.parametrize("key", UNUSABLE, ids=ascii)
@pytest.mark.parametrize(
    "use",
    [
        lambda key: get(URL, key),
        lambda key: asyncio.run(connect_server_engine(URL, api_key=key)),
        lambda key: Server(base_url=URL, api_key=key),
        lambda key: Judge(URL, model="m", api_key=key),
        lambda key: check_fields({"api_key": key}),
    ],
    ids=["client", "engine", "server", "judge", "adapters"],
)
def test_a_key_that_no_header_takes_is_refused_and_not_shown(
    use: Callable[[object], object], key: object
) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as raised:
        use(key)
    assert SECRET not in shown(raised.value)
    assert "5" not in str(raised.value)


def test_a_key_of_the_environment_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIC_API_KEY", f"{SECRET}\n{SECRET}")
    with pytest.raises(ConfigurationError, match="api_key") as raised:
        check_fields({"base_url": URL})
    assert SECRET not in shown(raised.value)
    check_fields({"model": "reference"})  # nothing is sent anywhere


@pytest.mark.parametrize("key", [f"{SECRET}\nX: y", SECRET.encode(), [SECRET]], ids=ascii)
@pytest.mark.parametrize("adapter", [ChatAdaptive, AdaptiveLLM])
def test_no_adapter_shows_a_key_that_it_refuses(
    adapter: Callable[..., object], key: object
) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as raised:
        adapter(model="m", base_url=URL, api_key=key)
    assert SECRET not in shown(raised.value)


def test_a_key_with_its_line_end_is_not_serialized() -> None:
    llm = ChatAdaptive(model="m", base_url=URL, api_key=f"{SECRET}\n")
    assert SECRET not in dumps(llm)
    assert SECRET not in f"{llm!r} {llm} {llm._identifying_params}"


def test_no_error_of_a_field_shows_what_it_was_given() -> None:
    with pytest.raises(ValueError, match="api_key") as raised:
        AdaptiveFields(api_key=[SECRET])  # type: ignore[arg-type]  # that is the point
    assert SECRET not in str(raised.value)


def test_a_server_that_repeats_the_key_does_not_make_us_repeat_it() -> None:
    for status in (401, 200):
        with (
            answering(status, f"Incorrect key: {SECRET}") as server,
            pytest.raises(EngineError) as raised,
        ):
            get(server.url, f"{SECRET}\n")
        assert "Incorrect key: ***" in str(raised.value)


@pytest.mark.parametrize("name", ["hf_token", "api_key", "Password", "api-key"])
def test_secrets_among_arguments_are_not_shown(name: str) -> None:
    error = ConfigurationError("engine_args", {name: SECRET, "max_tokens": 7}, "none")
    assert SECRET not in str(error)
    assert "'max_tokens': 7" in str(error)


@pytest.mark.parametrize(
    ("pasted", "taken"),
    [
        ("http://h:8000/v1", "http://h:8000/v1"),
        (" http://h:8000/v1/ \n", "http://h:8000/v1"),
        ("\ufeffhttps://h/v1//", "https://h/v1"),
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://h/v1/chat/completions/", "http://h/v1"),
        ("http://h/v1/completions", "http://h/v1"),
        ("http://h/v1/models", "http://h/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://h:8000", "http://h:8000"),
    ],
)
def test_a_url_is_taken_without_what_was_pasted_with_it(pasted: str, taken: str) -> None:
    assert check_url(pasted) == taken
    assert Server(base_url=pasted).base_url == taken
    assert Client(pasted, api_key=None, timeout_s=1, max_retries=0).base_url == taken


@pytest.mark.parametrize(
    "url",
    ["", "h:8000/v1", "localhost:8000", "ftp://h/v1", "http://", "http://h:99999/v1",
     "http://h:port/v1", "http://h/v1?key=1", "http://h/v1#x", "http://h h/v1", "http://[::1/v1",
     5],
)  # fmt: skip
def test_what_cannot_be_the_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        check_url(url)
    with pytest.raises(ConfigurationError, match="base_url"):
        check_fields({"base_url": (URL, url)})


def test_a_query_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="nothing behind its path") as raised:
        check_url(f"http://h/v1?key={SECRET}")
    assert SECRET not in shown(raised.value)


@pytest.mark.parametrize(
    "url",
    [f"http://user:{SECRET}@h/v1", f"http://{SECRET}@h/v1", f"http://u:{SECRET}@h:99999/v1",
     f"u:{SECRET}@h:8000", f"http://u:a/{SECRET}@h/v1"],
)  # fmt: skip
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    for use in (
        lambda: check_url(url),
        lambda: Server(base_url=url),
        lambda: Judge(url, model="m"),
        lambda: check_fields({"base_url": [url]}),
    ):
        with pytest.raises(ConfigurationError, match=r"base_url|judge_url") as raised:
            use()
        assert SECRET not in shown(raised.value)
        assert "***@h" in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, '{"detail": "Not Found"}'),
        (404, "<!DOCTYPE html><html>no such page</html>"),
        (405, "Method Not Allowed"),
        (200, "  <html><body>Welcome to nginx!</body></html>"),
    ],
    ids=["API without the route", "page", "method", "welcome"],
)
def test_a_url_without_its_version_gets_a_hint(status: int, body: str) -> None:
    with answering(status, body) as server, pytest.raises(EngineError) as raised:
        get(f"{server.url}/")
    assert f"Did you mean {server.url}/v1?" in str(raised.value)


def test_a_page_where_the_version_is_right_is_said_to_be_one() -> None:
    with answering(200, "<html></html>") as server, pytest.raises(AICError) as raised:
        get(f"{server.url}/v1")
    assert "a web page" in str(raised.value)
    assert "Did you mean" not in str(raised.value)


def test_a_model_that_is_not_there_gets_no_hint_about_the_url() -> None:
    body = '{"error": {"message": "The model `x` does not exist.", "code": 404}}'
    with answering(404, body) as server, pytest.raises(EngineRequestError) as raised:
        get(f"{server.url}/v1")
    assert raised.value.hint is None


def test_https_of_a_server_that_speaks_http_gets_a_hint() -> None:
    with answering(200, "{}") as server, pytest.raises(EngineConnectionError) as raised:
        get(server.url.replace("http:", "https:"))
    assert f"write {server.url}" in str(raised.value)


def test_a_port_where_nobody_listens_gets_a_hint() -> None:
    with pytest.raises(EngineConnectionError, match="does it listen on port 9"):
        get(URL)


@pytest.mark.parametrize("reserved", [900, 1000, 1018, 1019, 5000])
def test_no_range_of_a_context_is_negative(reserved: int) -> None:
    error = ContextLengthError(
        num_prompt_tokens=120, num_reserved_tokens=reserved, context_length=1018
    )
    said = str(error)
    assert "-" not in said.replace("self-evaluation", "")
    assert "at most 0" not in said
    for number in (120, reserved, 1018, 120 + reserved - 1018):
        assert str(number) in said
