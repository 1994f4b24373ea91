"""Progress of a run as LangChain's custom events, beside the run and in its order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
)
from langchain_core.callbacks.base import RunManagerMixin
from langchain_core.callbacks.manager import ahandle_event
from langchain_core.runnables.config import ensure_config, get_async_callback_manager_for_config

from selfeval_backend.controller import OnProgress
from selfeval_backend.sync import contained
from selfeval_backend.types import Accept, Advance, Draw, Evaluate, Prune, Stop, TraceEvent

__all__ = ["PROGRESS_EVENT", "Progress", "RunManager", "progress_reported"]

PROGRESS_EVENT = "best_of_n"
"""The custom events' name."""

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun

_Dispatch = Callable[[dict[str, Any]], Awaitable[None]]
_SILENT = (RunManagerMixin.on_custom_event, AsyncCallbackHandler.on_custom_event)


class Progress:
    """Tells LangChain's handlers of the decisions of one run, in their order.

    Args:
        dispatch: Sends one event's data to them; None: nobody listens.
        on_progress: Told too, at once.
    """

    def __init__(self, dispatch: _Dispatch | None, on_progress: OnProgress | None) -> None:
        self._dispatch = dispatch
        self._on_progress = on_progress
        self._untold: deque[dict[str, Any]] = deque()
        self._happened = asyncio.Event()
        self._telling = asyncio.Lock()
        self._num_drawn = 0
        self._keeping: asyncio.Task[Future[None]] | None = None

    # No generator: an event loop that ends would close it beside the stream that it is part of.
    async def __aenter__(self) -> Self:
        if self._dispatch is not None:
            self._keeping = asyncio.create_task(contained(self.keep_telling))
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._keeping is None:
            return
        try:
            if error is None and self._keeping.done():
                # A handler that raises on purpose has ended it.
                (await self._keeping).result()
            if error is None:
                await self.tell()
        finally:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    @property
    def on_progress(self) -> OnProgress | None:
        """Of the run."""
        return self._on_progress if self._dispatch is None else self._observe

    def _observe(self, event: TraceEvent) -> None:
        if (data := _describe(event, self._num_drawn)) is not None:
            self._untold.append(data)
            self._happened.set()
        if isinstance(event.decision, Draw):
            self._num_drawn += len(event.decision.temperatures)
        if self._on_progress is not None:
            self._on_progress(event)

    async def tell(self) -> None:
        """Return when everything so far has been reported."""
        if self._dispatch is None:
            return
        async with self._telling:
            while self._untold:
                await self._dispatch(self._untold.popleft())

    async def keep_telling(self) -> None:
        """Report what happens as it happens, until cancelled."""
        while True:
            await self._happened.wait()
            self._happened.clear()
            await self.tell()


def progress_reported(run_manager: RunManager | None, on_progress: OnProgress | None) -> Progress:
    """Return what reports a run's progress, to LangChain's handlers and to another on_progress.

    The events go to the run's own handlers where LangChain hands the run over; else to those of the
    run around it (a chain's, a graph's); else to none, as there is no way to reach them.
    """
    return Progress(_dispatch(run_manager), on_progress)


def _dispatch(run_manager: RunManager | None) -> _Dispatch | None:
    """Return what reaches somebody who listens, or None."""
    if run_manager is not None:
        handlers = [handler for handler in run_manager.handlers if _listens(handler)]
        return partial(_tell_handlers, handlers, run_manager) if handlers else None
    config = ensure_config()
    around = get_async_callback_manager_for_config(config)
    if around.parent_run_id is None or not any(map(_listens, around.handlers)):
        return None
    return partial(adispatch_custom_event, PROGRESS_EVENT, config=config)


def _listens(handler: BaseCallbackHandler) -> bool:
    own = type(handler).on_custom_event
    return not handler.ignore_custom_event and own not in _SILENT


async def _tell_handlers(
    handlers: list[BaseCallbackHandler], run_manager: RunManager, told: dict[str, Any]
) -> None:
    await ahandle_event(
        handlers,
        "on_custom_event",
        "ignore_custom_event",
        PROGRESS_EVENT,
        told,
        run_id=run_manager.run_id,
        tags=run_manager.tags,
        metadata=run_manager.metadata,
    )


def _describe(event: TraceEvent, num_drawn: int) -> dict[str, Any] | None:
    """Return an event's data in JSON types; None if only time passed."""
    match event.decision:
        case Draw(temperatures=temperatures):
            what: dict[str, Any] = {
                "type": "drawn",
                "samples": list(range(num_drawn, num_drawn + len(temperatures))),
                "temperatures": list(temperatures),
            }
        case Evaluate(samples=samples):
            what = {"type": "evaluated", "samples": list(samples)}
        case Prune(samples=samples):
            what = {"type": "pruned", "samples": list(samples)}
        case Accept(sample=sample):
            what = {"type": "accepted", "samples": [sample]}
        case Stop(reason=reason):
            what = {"type": "stopped", "samples": [], "reason": reason}
        case Advance():
            return None
    return {
        **what,
        "elapsed_s": event.elapsed_s,
        "num_running": event.num_running,
        "num_finished": event.num_finished,
        "total_tokens": event.usage.total_tokens,
    }
