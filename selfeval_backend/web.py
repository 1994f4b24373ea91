"""Where a server is and what opens it: URLs and keys, as people paste them, and HTTP clients.

The one place that reads a base URL, and the one that makes a key into a header. What is secret is
never part of an error: not the key, and not what stands before the @ of a URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from selfeval_backend.errors import ConfigurationError

__all__ = [
    "address_hint",
    "bearer",
    "check_key",
    "check_url",
    "clean_url",
    "connection_hint",
    "open_client",
    "without_key",
]

T = TypeVar("T")

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_ROUTES = ("/chat/completions", "/completions", "/models")
"""What stands behind a base URL, and is often pasted with it."""

_EXAMPLE = 'a URL such as "http://localhost:8000/v1"'
_INVISIBLE = "\ufeff\u200b\u2060"
"""A byte order mark and spaces of no width, which editors and web pages leave behind."""


class _Hidden:
    """Stands in an error for what must not be shown."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __repr__(self) -> str:
        return f"<{self._what}, not shown>"


def check_key(key: object) -> str | None:
    """Return a key without the line end and the spaces that came with it; None where none is left.

    Raises:
        ConfigurationError: It is no text, or no header can carry it. The key is not shown.
    """
    if key is None:
        return None
    if not isinstance(key, str):
        raise ConfigurationError("api_key", _Hidden(f"a {type(key).__name__}"), "a string")
    cleaned = key.strip().strip(_INVISIBLE).strip()
    if any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in cleaned):
        raise _unusable_key("control characters")
    if any(ord(letter) > 0xFF for letter in cleaned):
        raise _unusable_key("letters outside of Latin-1")
    return cleaned or None


def _unusable_key(what: str) -> ConfigurationError:
    return ConfigurationError(
        "api_key",
        _Hidden(f"a key with {what} in it"),
        "a key that a header can carry",
        remedy="Copy it again: it holds something other than the key.",
    )


def bearer(key: str | None) -> dict[bytes, bytes]:
    """Return the header that carries a key; none where there is no key.

    Raises:
        ConfigurationError: No header can carry it. The key is not shown.
    """
    cleaned = check_key(key)
    return {} if cleaned is None else {b"Authorization": b"Bearer " + cleaned.encode("latin-1")}


def without_key(text: str, key: str | None) -> str:
    """Return what a server said, without the key that it may have repeated."""
    return text.replace(key, "***") if key else text


def check_url(base_url: object, *, field: str = "base_url") -> str:
    """Return a base URL without what was pasted with it, if it can be the URL of a server.

    Raises:
        ConfigurationError: It cannot, or it holds what must not be shown (see `clean_url`).
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(field, base_url, _EXAMPLE)
    url = clean_url(base_url, field=field)
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(field, base_url, _EXAMPLE)
    if any(letter.isspace() for letter in url):
        raise ConfigurationError(field, base_url, f"{_EXAMPLE}, without spaces")
    return url


def clean_url(base_url: str, *, field: str = "base_url") -> str:
    """Return a base URL without what is pasted with it: spaces, slashes, a route.

    Raises:
        ConfigurationError: It holds a user and a password, or a query: it stands in messages and
            reprs, where these would be read. They are not shown.
    """
    url = base_url.strip().strip(_INVISIBLE).strip()
    if "@" in url:
        raise ConfigurationError(
            field,
            f"***@{url.rpartition('@')[2]}",
            "a URL without a user and a password",
            remedy="Give what opens the server as api_key.",
        )
    if "?" in url or "#" in url:
        path = url.partition("?")[0].partition("#")[0]
        raise ConfigurationError(field, f"{path}?***", f"{_EXAMPLE}, with nothing behind its path")
    return _without_route(url)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        if parts.port == 0:  # reading it refuses what is no port
            return None
        (parts.hostname or "").encode("idna")  # as a resolver does: labels have a length
    except ValueError:
        return None
    return parts


def _without_route(url: str) -> str:
    url = url.rstrip("/")
    for route in _ROUTES:
        if url.endswith(route):
            return url.removesuffix(route).rstrip("/")
    return url


def address_hint(base_url: str) -> str:
    """Return what to do where something answers, and is no API."""
    if urlsplit(base_url).path.rstrip("/").endswith("/v1"):
        return f"Is {base_url} the API of a vLLM server, and not of something before it?"
    return f"base_url goes up to and with the version. Did you mean {base_url}/v1?"


def connection_hint(base_url: str, reason: str) -> str:
    """Return what to do where a server cannot be reached, by what the connection said."""
    lowered = reason.lower()
    if "wrong_version_number" in lowered or "record layer failure" in lowered:
        return f"It speaks plain HTTP: write http{base_url.removeprefix('https')}."
    if "certificate" in lowered:
        return "Give `verify` the bundle of its authority, or False to trust any certificate."
    parts = urlsplit(base_url)
    if "refused" in lowered or "all connection attempts failed" in lowered:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"Is the server running, and does it listen on port {port}?"
    if parts.scheme == "http" and ("disconnected" in lowered or "illegal" in lowered):
        return f"If it speaks HTTPS, write https{base_url.removeprefix('http')}."
    return "Is the server running, and is base_url right (it ends in /v1)?"


def open_client(make: Callable[[], T]) -> T:
    """Make an HTTP client of httpx, which reads proxies and authorities from the environment.

    Raises:
        ConfigurationError: What is there cannot be used; names the variables, not their values,
            which may hold passwords.
    """
    import httpx

    try:
        return make()
    except ImportError as error:
        raise ConfigurationError(
            "proxy",
            _named(_PROXIES),
            "a proxy that httpx can talk to",
            remedy="SOCKS needs a package: pip install 'httpx[socks]'. Or unset the variable.",
        ) from error
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(
            "proxy",
            _named(_PROXIES),
            "URLs that begin with http://, https:// or socks5://",
            remedy="Correct or unset the variable.",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            "certificates",
            _named(_CERTIFICATES),
            "authorities that can be read",
            remedy="Correct or unset the variable.",
        ) from error


def _named(names: tuple[str, ...]) -> str:
    found = [spelled for name in names for spelled in (name, name.lower()) if spelled in os.environ]
    return ", ".join(found) or "the system's own"
