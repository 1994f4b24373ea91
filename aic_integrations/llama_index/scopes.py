"""What holds for every call inside a `with`: outcomes that are collected, settings that are given.

Query engines, chat engines and workflows return text and drop what the LLM said beside it, and they
pass no keyword arguments on. So both go around them, in context variables: what is started inside
belongs to it, in tasks, in `asyncio.to_thread` and in LlamaIndex's own threads; a plain thread
takes it along with `contextvars.copy_context().run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from selfeval_backend.adapter_fields import CALL_NAMES, check_fields, check_names, spell_out
from selfeval_backend.forks import Lock
from selfeval_backend.types import Usage, to_json

__all__ = [
    "CollectedCall",
    "Collection",
    "best_of_n_settings",
    "collect_best_of_n",
    "collections_in_force",
    "settings_in_force",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedCall:
    """One call of an `AdaptiveLLM`, answered or failed."""

    model: str
    """The model's name."""
    text: str | None
    """The chosen answer; None: no sample had finished."""
    best_of_n: Mapping[str, Any] | None
    """How it was come by, in JSON types, as in a response's ``additional_kwargs``; None: as above.
    """
    usage: Usage
    """What it paid for, answered or not."""
    error: Exception | None = field(default=None)
    """Why there is no answer."""

    @property
    def confidence(self) -> float | None:
        """prob_win_or_tie of the answer; None without one, or where it was not evaluated."""
        return None if self.best_of_n is None else self.best_of_n["confidence"]

    @property
    def valid(self) -> bool:
        """False where the answer is none: blank, cut off, or not of the form asked for."""
        return self.best_of_n is None or self.best_of_n.get("valid") is not False

    @property
    def calibrated(self) -> bool:
        """Whether the confidence is a calibrated probability."""
        return self.best_of_n is not None and bool(self.best_of_n["calibrated"])


class Collection:
    """The calls of a `collect_best_of_n` block, in the order in which they ended."""

    def __init__(self) -> None:
        self._calls: list[CollectedCall] = []
        self._lock = Lock()

    def add(self, call: CollectedCall) -> None:
        """Append a call; from any thread."""
        with self._lock:
            self._calls.append(call)

    @property
    def calls(self) -> tuple[CollectedCall, ...]:
        """All that have ended so far."""
        with self._lock:
            return tuple(self._calls)

    @property
    def confidence(self) -> float | None:
        """The lowest confidence of all calls; None without a call, or if one has none.

        An answer that was put together from several calls is worth what its weakest one is.
        """
        found = [call.confidence for call in self.calls]
        known = [confidence for confidence in found if confidence is not None]
        return min(known) if known and len(known) == len(found) else None

    @property
    def calibrated(self) -> bool:
        """Whether there are calls, and every one's confidence is a calibrated probability."""
        calls = self.calls
        return bool(calls) and all(call.calibrated for call in calls)

    @property
    def usage(self) -> Usage:
        """What all calls paid for, those that failed among them."""
        return sum((call.usage for call in self.calls), Usage())

    def summary(self) -> dict[str, Any] | None:
        """Return ``best_of_n`` of all calls together, in JSON types; None without a call.

        `valid` is False if one call's answer is not, which is then the weakest call; confidence is
        the lowest, `stop_reason` and `policy` are those of the weakest call, `tokens` the sum, and
        ``calls`` has each one's own.
        """
        calls = self.calls
        if not calls:
            return None
        weakest = min(
            calls,
            key=lambda call: (call.valid, -1.0 if call.confidence is None else call.confidence),
        )
        usage = self.usage
        return {
            "confidence": self.confidence,
            "calibrated": self.calibrated,
            "valid": None if weakest.valid else False,
            "stop_reason": _fact(weakest, "stop_reason"),
            "policy": _fact(weakest, "policy"),
            "tokens": {"total": usage.total_tokens, **to_json(usage)},
            "calls": [None if c.best_of_n is None else dict(c.best_of_n) for c in calls],
        }


def _fact(call: CollectedCall, name: str) -> Any:
    return None if call.best_of_n is None else call.best_of_n[name]


_collections: ContextVar[tuple[Collection, ...]] = ContextVar("aic_collections", default=())
_settings: ContextVar[Mapping[str, Any]] = ContextVar("aic_settings", default=MappingProxyType({}))


@contextmanager
def collect_best_of_n() -> Iterator[Collection]:
    """Collect the outcome of every LLM call inside, whatever engine or workflow makes it.

    ::

        with collect_best_of_n() as collected:
            response = await query_engine.aquery("Who wrote it?")
        collected.confidence, collected.usage, [call.best_of_n for call in collected.calls]

    A call belongs to it that began inside, also if it ends, or its stream is read, outside. Blocks
    may be nested: a call belongs to all of them.
    """
    collection = Collection()
    token = _collections.set((*_collections.get(), collection))
    try:
        yield collection
    finally:
        _collections.reset(token)


@contextmanager
def best_of_n_settings(**settings: Any) -> Iterator[None]:
    """Give settings to every `AdaptiveLLM` call inside, whatever engine or workflow makes it.

    They go before the LLM's own fields; keyword arguments of a call go before them.

    Args:
        settings: Those that one call takes: `max_samples`, `threshold`, `seed`, ...

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
    """
    given = spell_out(settings)
    check_names(given, allowed=CALL_NAMES)
    check_fields(dict(given))
    token = _settings.set({**_settings.get(), **given})
    try:
        yield
    finally:
        _settings.reset(token)


def collections_in_force() -> tuple[Collection, ...]:
    """Return the collections that a call that begins now belongs to."""
    return _collections.get()


def settings_in_force() -> Mapping[str, Any]:
    """Return the settings that hold for a call that begins now."""
    return _settings.get()
