"""What all commands share: a model for a while, and what goes wrong as one line."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import typer

from selfeval_backend.cli.console import FAILED, REFUSED, say
from selfeval_backend.cli.fetching import fetch_first
from selfeval_backend.errors import (
    AICError,
    ConfigurationError,
    EngineError,
    NoFinishedSampleError,
)
from selfeval_backend.files import one_line

if TYPE_CHECKING:
    from selfeval_backend.model import EngineName, SelfEvaluatingModel, Server

__all__ = ["note", "one_line_errors", "status", "with_model"]

T = TypeVar("T")

INTERRUPTED = 130
"""Exit status: Ctrl-C."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn this project's errors, Ctrl-C and warnings into one line on stderr each.

    So too a file that cannot be used; anything else is a fault of ours, and its traceback is shown.

    Raises:
        typer.Exit: With the exit status that belongs to the error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say to their developers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            yield
    except AICError as error:
        failed = isinstance(error, EngineError | NoFinishedSampleError)
        _fail(error, FAILED if failed and not isinstance(error, ConfigurationError) else REFUSED)
    except OSError as error:
        if error.filename is None:  # not of a file that somebody named: a fault of ours
            raise
        note(f"error: {error.filename}: {one_line(error)}.")
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        note("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def with_model(
    name: str,
    engine: str | None,
    job: Callable[[SelfEvaluatingModel], Coroutine[Any, Any, T]],
    *,
    engine_args: Mapping[str, Any] | None = None,
    base_url: list[str] | None = None,
) -> T:
    """Load a model, run a job on it, and close it, whatever happens.

    Args:
        name: A name in `model_store.KNOWN`, a folder, or a model of the hub.
        engine: None: the best that this machine has.
        job: Takes the model.
        engine_args: Of `vllm.EngineArgs`.
        base_url: Running vLLM servers, replicas of one model; AIC_API_KEY is their key.

    Raises:
        AICError: The model cannot be loaded, or whatever the job raises.
    """
    # Bars that libraries draw while they read weights: the status says it, and errors are one line.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from selfeval_backend.model import check_where_it_runs, load_model

    # Before a model is fetched that could not be used.
    check_where_it_runs(
        name, engine=engine, engine_args=engine_args, on_server=bool(base_url), model_files=None
    )
    server = _server(base_url) if base_url else None
    fetch_first(name)
    with status(f"loading {name}"):
        model = load_model(
            name,
            engine=cast("EngineName | None", engine),
            engine_args=engine_args,
            server=server,
        )

    async def run_and_close() -> T:
        try:
            return await job(model)
        finally:
            await model.aclose()

    # asyncio turns Ctrl-C into a cancellation, so that streams and model are closed first.
    return asyncio.run(run_and_close())


def _server(base_urls: list[str]) -> Server:
    from selfeval_backend.model import Server
    from selfeval_backend.web import check_url

    for url in base_urls:
        check_url(url)
    urls = base_urls[0] if len(base_urls) == 1 else tuple(base_urls)
    return Server(base_url=urls, api_key=os.environ.get("AIC_API_KEY"))


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say in a terminal what is being waited for; say nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def _fail(error: AICError, status: int) -> NoReturn:
    note(f"error: {error}")
    raise typer.Exit(status) from None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    note(f"warning: {message}")


def note(text: str) -> None:
    """Write one line on stderr, as this command's."""
    say(f"aic: {' '.join(text.splitlines())}")
