"""What every HTTP client is opened with: a URL that can be one, and the environment's proxies."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from selfeval_backend.errors import ConfigurationError, MissingDependencyError

__all__ = ["check_url", "open_client"]

T = TypeVar("T")

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_MAX_PORT = 65_535


def check_url(field: str, url: str) -> None:
    """Refuse what cannot be the URL of a server.

    Args:
        field: What it is called in errors.
        url: It.

    Raises:
        ConfigurationError: It cannot.
        MissingDependencyError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingDependencyError("httpx", extra="server") from error
    try:
        parsed = httpx.URL(url)
        parsed.raw_host.decode("ascii").encode("idna")  # as a resolver does: labels have a length
    except (httpx.InvalidURL, TypeError, ValueError):
        parsed = httpx.URL("")
    port = 1 if parsed.port is None else parsed.port
    if (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or url.split() != [url]
        or not 1 <= port <= _MAX_PORT
        or parsed.query
        or parsed.fragment
    ):
        raise ConfigurationError(field, url, 'a URL such as "http://localhost:8000/v1"')


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
            remedy="Mend or unset the variable.",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            "certificates",
            _named(_CERTIFICATES),
            "authorities that can be read",
            remedy="Mend or unset the variable.",
        ) from error


def _named(names: tuple[str, ...]) -> str:
    found = [spelled for name in names for spelled in (name, name.lower()) if spelled in os.environ]
    return ", ".join(found) or "the system's own"
