"""HTTP with one vLLM server: clients of each event loop, retries, and errors of this project."""

from __future__ import annotations

import json
import ssl
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
from httpx_sse import EventSource
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from selfeval_backend.engine.server.pools import ClientPools
from selfeval_backend.errors import (
    ConfigurationError,
    EngineConnectionError,
    EngineError,
    EngineRequestError,
    EngineResponseError,
    EngineTimeoutError,
)
from selfeval_backend.generators import Owned
from selfeval_backend.web import (
    address_hint,
    bearer,
    check_key,
    check_url,
    connection_hint,
    open_client,
    without_key,
)

__all__ = ["Client"]

_DONE = "[DONE]"
_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Client:
    """Requests to one server.

    Retries, with growing random waits, what loses nothing by it: a request that failed before any
    token came back.

    Args:
        base_url: Up to and with the version: ``http://host:8000/v1``.
        api_key: Sent as a bearer token; None: none. It is in no message.
        timeout_s: Longest silence of the server: while it connects, and between two tokens.
        max_retries: Times that a failed request is sent again.
        verify: False: certificates are not checked; a path: a bundle of authorities. Proxies and
            authorities of the environment are used as httpx does.

    Raises:
        ConfigurationError: The URL cannot be one, no header can carry the key, the bundle cannot be
            read, or the environment's proxies cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        max_retries: int,
        verify: bool | str = True,
    ) -> None:
        self.base_url = check_url(base_url)
        self._api_key = check_key(api_key)
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        certificates = _tls(verify)  # one for all clients: reading them takes long
        open_client(lambda: httpx.AsyncClient(verify=certificates))  # refused here, not in a call
        self._pools = ClientPools(
            partial(
                httpx.AsyncClient,
                headers=bearer(self._api_key),
                timeout=timeout_s,
                verify=certificates,
            )
        )
        # One that is forgotten, not closed, leaves no connection open.
        weakref.finalize(self, self._pools.close_soon).atexit = False

    def __repr__(self) -> str:
        return f"Client({self.base_url!r})"

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object behind a path.

        Raises:
            EngineError: It could not be had.
        """
        return self._json_object(await self.get_text(path))

    async def get_text(self, path: str) -> str:
        """Return the text behind a path.

        Raises:
            EngineError: It could not be had.
        """
        async for attempt in self._attempts():
            with attempt, self._translated():
                async with self._pools.lend() as client:
                    response = await client.get(self.base_url + path)
                self._raise_for_status(response, response.text)
        return response.text

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a JSON object, and return the one that comes back.

        Raises:
            EngineError: None came.
        """
        async for attempt in self._attempts():
            with attempt, self._translated():
                async with self._pools.lend() as client:
                    response = await client.post(self.base_url + path, json=dict(body))
                self._raise_for_status(response, response.text)
                answer = self._json_object(response.text)
        return answer

    async def command(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a JSON object beside the API, where its version stands; what comes back is nothing.

        Raises:
            EngineError: The server did not take it.
        """
        url = self.base_url.rpartition("/")[0] + path
        with self._translated():
            async with self._pools.lend() as client:
                response = await client.post(url, json=dict(body))
            self._raise_for_status(response, response.text)

    async def stream(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Send a JSON object, and yield the server-sent events that come back.

        Closing the generator drops the connection, at which the server aborts the request.

        Raises:
            EngineError: The stream failed. What was yielded before is valid.
        """
        began = False
        async for attempt in self._attempts():
            with attempt:
                try:
                    async with Owned(self._events(path, body)) as events:
                        async for event in events:
                            began = True
                            yield event
                except EngineError as error:
                    error.retryable = error.retryable and not began
                    raise

    async def _events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        with self._translated():
            async with (
                self._pools.lend() as client,
                client.stream("POST", self.base_url + path, json=dict(body)) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    text = (await response.aread()).decode(errors="replace")
                    self._raise_for_status(response, text)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise EngineResponseError(f"{self.base_url} does not stream its answer.")
                async with Owned(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        if event.data.strip() == _DONE:
                            return
                        found = self._json_object(event.data)
                        if "error" in found:
                            raise _error_in_stream(self.base_url, found["error"])
                        yield found
        raise EngineConnectionError(
            f"{self.base_url} ended a stream before it was done.", retryable=True
        )

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, EngineError) and e.retryable),
            stop=stop_after_attempt(1 + self._max_retries) | stop_after_delay(self._timeout_s),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise EngineTimeoutError(
                f"{self.base_url} was silent for {self._timeout_s:g} s.",
                retryable=True,
                hint="Raise `timeout`, or look at the server's log.",
            ) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise EngineConnectionError(
                f"{self.base_url} could not be reached: {reason}.",
                retryable=True,
                hint=connection_hint(self.base_url, reason),
            ) from error
        except httpx.InvalidURL as error:
            raise EngineRequestError(f"{self.base_url} is no URL: {error}") from error

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._pools.aclose()

    def _raise_for_status(self, response: httpx.Response, text: str) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        reason = without_key(_reason(text), self._api_key)
        raise EngineRequestError(
            f"{response.request.url} answered {status}: {reason}",
            status_code=status,
            retryable=status in _RETRYABLE_STATUS,
            hint=_status_hint(self.base_url, status, text),
        )

    def _json_object(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            what = "a web page" if _is_page(text) else repr(without_key(text[:100], self._api_key))
            raise EngineResponseError(
                f"{self.base_url} answered no JSON object, but {what}.",
                hint=address_hint(self.base_url),
            )
        return found


def _error_in_stream(base_url: str, error: object) -> EngineError:
    """Return the error that a stream holds although its status was a success."""
    code = error.get("code") if isinstance(error, dict) else None
    if code == httpx.codes.BAD_REQUEST:
        return EngineRequestError(f"{base_url} refused a request: {error}", status_code=code)
    return EngineResponseError(f"{base_url} failed: {error}")


def _tls(verify: bool | str) -> ssl.SSLContext:
    if isinstance(verify, bool):
        return open_client(lambda: httpx.create_ssl_context(verify=verify))
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "verify", verify, "True, False, or the path of a bundle of certificates"
        ) from error


def _status_hint(base_url: str, status: int, text: str) -> str | None:
    """Return what to do about a status that says that there is nothing at the URL."""
    if status == httpx.codes.BAD_REQUEST and "http request was sent to https" in text.lower():
        return f"It speaks HTTPS: write https{base_url.removeprefix('http')}."
    # vLLM says so of a model too, in JSON that names it.
    is_route = _is_page(text) or '"detail"' in text or not text.lstrip().startswith("{")
    if status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED) and is_route:
        return address_hint(base_url)
    return None


def _is_page(text: str) -> bool:
    return text.lstrip()[:200].lower().startswith(("<!doctype", "<html", "<?xml"))


def _reason(text: str) -> str:
    try:
        found = json.loads(text)
        found = found.get("error", found)
        message = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        message = text
    return " ".join(str(message).split())[:300] or "nothing"
