"""Several engines on one model as one: prompts are spread, and a replica that fails is left out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from selfeval_backend.engine.base import (
    Capabilities,
    Chunk,
    Engine,
    LabelLogprobs,
    SamplingParams,
)
from selfeval_backend.engine.checks import check_params
from selfeval_backend.engine.generator_stream import GeneratorStream
from selfeval_backend.engine.resubmission import SampleSoFar
from selfeval_backend.errors import (
    ConfigurationError,
    EngineClosedError,
    EngineConnectionError,
    EngineError,
    EngineRequestError,
    EngineResponseError,
    EngineTimeoutError,
)
from selfeval_backend.forks import Lock, in_child

__all__ = ["ReplicaSet", "connect_replicas"]

Connect = Callable[[], Awaitable[Engine]]
"""Returns a new engine, once it has been seen to work."""

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 60.0
_REPLICA_FAILURES = (EngineConnectionError, EngineTimeoutError, EngineResponseError)


@dataclass(slots=True, kw_only=True, eq=False)
class _Replica:
    """One engine, and how it does."""

    name: str
    connect: Connect
    engine: Engine | None = None
    """None: left out, until it has been connected again."""
    retired: list[Engine] = field(default_factory=list)
    """Failed ones, whose other requests fail too: closed once it has been connected again."""
    num_requests: int = 0
    """Samples and evaluations that it works on."""
    num_failures: int = 0
    """In a row."""
    retry_at: float = 0.0
    """On the monotonic clock."""
    reconnecting: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Pin:
    """A prompt that is being worked on, and where."""

    replica: _Replica
    num_streams: int = field(default=0)


async def connect_replicas(connects: Mapping[str, Connect], *, pause_s: float = 1.0) -> ReplicaSet:
    """Connect to every replica there is; those that cannot be reached now are tried again later.

    Args:
        connects: By the replica's name.
        pause_s: How long a replica is left out after its first failure.

    Raises:
        EngineError: None can be reached, or one refuses for good.
    """
    replicas = [_Replica(name=name, connect=connect) for name, connect in connects.items()]
    results = await asyncio.gather(*(r.connect() for r in replicas), return_exceptions=True)
    failures: list[BaseException] = []
    for replica, result in zip(replicas, results, strict=True):
        if not isinstance(result, BaseException):
            replica.engine = result
        else:
            failures.append(result)
    engines = [r.engine for r in replicas if r.engine is not None]
    for failure in failures:
        if not engines or not _is_replicas_fault(failure):
            await asyncio.gather(*(engine.aclose() for engine in engines))
            raise failure
    made = ReplicaSet(replicas, pause_s=pause_s)
    for replica, result in zip(replicas, results, strict=True):
        if isinstance(result, EngineError):
            made.leave_out(replica, result)
    return made


class ReplicaSet:
    """An engine made of replicas of one model. Make it with `connect_replicas`.

    All requests of a prompt go to one replica, which has its KV cache, as long as a sample of it is
    open; a new prompt goes to the replica that works on the fewest requests. When a replica fails,
    its open samples go on elsewhere from where they were: prompt and sample are sent again
    (`Usage.resent_tokens`), and nothing that was generated is lost; a sample under a grammar, which
    would begin anew, fails once it has begun. The failed one is left out for
    a while, which doubles up to a minute with every failure in a row, and used again once it can be
    connected to.

    Args:
        replicas: At least one of them connected.
        pause_s: How long a replica is left out after its first failure.
    """

    def __init__(self, replicas: list[_Replica], *, pause_s: float) -> None:
        self._replicas = replicas
        self._pause_s = pause_s
        self._pins: dict[tuple[int, ...], _Pin] = {}
        self._closed = False
        # Runs in several threads, each with a loop of its own, may share the engine.
        self._lock = Lock()
        in_child(self._forget_parents_work)
        all_have = [r.engine.capabilities for r in replicas if r.engine is not None]
        self._capabilities = replace(
            all_have[0],
            context_length=min(c.context_length for c in all_have),
            evaluates_mid_generation=all(c.evaluates_mid_generation for c in all_have),
            pauses_at_checkpoints=all(c.pauses_at_checkpoints for c in all_have),
            resubmits=any(c.resubmits for c in all_have),
            takes_grammars=all(c.takes_grammars for c in all_have),
            takes_min_p=all(c.takes_min_p for c in all_have),
        )

    @property
    def capabilities(self) -> Capabilities:
        """What all of them can do."""
        return self._capabilities

    @property
    def in_use(self) -> tuple[str, ...]:
        """Names of the replicas that are not left out."""
        with self._lock:
            return tuple(r.name for r in self._replicas if r.engine is not None)

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> GeneratorStream:
        """Generate one sample, on one replica after another if need be; see `Engine.stream`.

        Raises (the first time that a chunk is asked for, or later):
            EngineError: The request is refused, or no replica is left.
        """
        return GeneratorStream(lambda rest: self._generate(prompt_ids, params, rest))

    async def _generate(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, rest: list[Chunk]
    ) -> AsyncGenerator[Chunk, None]:
        check_params(params, self._capabilities)
        so_far = SampleSoFar(prompt_ids, params)
        with self._pinned(prompt_ids):
            while so_far.num_left:
                replica, engine = await self._replica_of(prompt_ids)
                try:
                    with self._working(replica):
                        stream = engine.stream(*so_far.go_on())
                        try:
                            async for chunk in stream:
                                yield so_far.take(chunk)
                                if chunk.finish_reason is not None:
                                    return
                        finally:
                            rest.append(so_far.take(await stream.aclose()))
                    raise EngineResponseError(f"{replica.name} ended a sample without a reason")
                except EngineError as error:
                    self._failed(replica, engine, error)
                    if params.grammar is not None and so_far.num_generated:
                        # The rest would be drawn under the grammar from its beginning.
                        raise EngineError(
                            f"{replica.name} failed while it drew a sample under a grammar. Such a "
                            "sample cannot go on elsewhere.",
                            retryable=True,
                        ) from error
                    # What the failed stream had left belongs to the sample: it goes on behind it.
                    if rest[-1].num_generated_tokens:
                        yield rest.pop()
            # It failed behind the last token.
            yield Chunk(token_ids=(), num_generated_tokens=0, finish_reason="length")

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Ask the replica that has the sequence's prompt; see `Engine.label_logprobs`.

        Raises:
            EngineError: The request is refused, or no replica is left.
        """
        while True:
            replica, engine = await self._replica_of(self._prompt_of(token_ids))
            try:
                with self._working(replica):
                    return await engine.label_logprobs(token_ids, label_ids)
            except EngineError as error:
                self._failed(replica, engine, error)

    def _forget_parents_work(self) -> None:
        self._pins = {}
        for replica in self._replicas:
            replica.num_requests, replica.reconnecting = 0, None

    def _prompt_of(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the longest prompt being worked on that these tokens begin with; else them all."""
        with self._lock:
            for length in sorted({len(prompt) for prompt in self._pins}, reverse=True):
                if token_ids[:length] in self._pins:
                    return token_ids[:length]
        return token_ids

    @contextmanager
    def _pinned(self, prompt_ids: tuple[int, ...]) -> Iterator[None]:
        with self._lock:
            pin = self._pins.get(prompt_ids)
            if pin is None:
                pin = self._pins[prompt_ids] = _Pin(self._least_loaded() or self._replicas[0])
            pin.num_streams += 1
        try:
            yield
        finally:
            with self._lock:
                pin.num_streams -= 1
                if not pin.num_streams:
                    del self._pins[prompt_ids]

    @contextmanager
    def _working(self, replica: _Replica) -> Iterator[None]:
        with self._lock:
            replica.num_requests += 1
        try:
            yield
        finally:
            with self._lock:
                replica.num_requests -= 1

    def _least_loaded(self) -> _Replica | None:
        connected = [r for r in self._replicas if r.engine is not None]
        if not connected:
            return None
        # A prompt that is pinned and has not begun counts too, or all of a batch go to one.
        waiting = [pin.replica for pin in self._pins.values()]
        return min(connected, key=lambda r: (waiting.count(r), r.num_requests))

    async def _replica_of(self, prompt_ids: tuple[int, ...]) -> tuple[_Replica, Engine]:
        """Return where a prompt is worked on: moved elsewhere if its replica is left out."""
        if self._closed:
            raise EngineClosedError("The engine was closed.")
        self._reconnect_due()
        with self._lock:
            if not any(r.engine for r in self._replicas):
                tasks = [self._reconnect(r) for r in self._replicas]
            else:
                tasks = []
        if tasks:
            await asyncio.wait(tasks)
        with self._lock:
            pin = self._pins.get(prompt_ids)
            replica = pin.replica if pin is not None else None
            if replica is None or replica.engine is None:
                replica = self._least_loaded()
            if replica is None or replica.engine is None:
                names = ", ".join(r.name for r in self._replicas)
                raise EngineConnectionError(
                    f"no replica can be reached: {names}.", hint="Is one of the servers running?"
                )
            if pin is not None:
                pin.replica = replica
            return replica, replica.engine

    def _failed(self, replica: _Replica, engine: Engine, error: EngineError) -> None:
        """Leave a replica out if an error is its own; else raise the error."""
        with self._lock:
            seen_before = replica.engine is not engine
            retired = seen_before and isinstance(error, EngineClosedError)
            if self._closed or not (retired or _is_replicas_fault(error)):
                raise error
            if not seen_before:
                self.leave_out(replica, error)

    def leave_out(self, replica: _Replica, error: EngineError) -> None:
        """Use a replica no more until it can be connected to again."""
        pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2**replica.num_failures)
        if replica.engine is not None:
            replica.retired.append(replica.engine)
        replica.engine = None
        replica.num_failures += 1
        replica.retry_at = time.monotonic() + pause_s
        _log.warning("%s is left out for %.3g s: %s", replica.name, pause_s, error)

    def _reconnect_due(self) -> None:
        """Begin to connect again to what was left out long enough; calls do not wait for it."""
        with self._lock:
            for replica in self._replicas:
                if replica.engine is None and time.monotonic() >= replica.retry_at:
                    self._reconnect(replica)

    def _reconnect(self, replica: _Replica) -> asyncio.Task[None]:
        """Return the task that connects to it; a new one if there is none on this event loop."""
        task = replica.reconnecting
        here = asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not here:
            task = replica.reconnecting = here.create_task(self._connect(replica))
        return task

    async def _connect(self, replica: _Replica) -> None:
        try:
            engine = await replica.connect()
        except (EngineError, ConfigurationError) as error:
            with self._lock:
                if replica.engine is None:
                    self.leave_out(replica, _as_engine_error(error))
            return
        with self._lock:
            if replica.engine is None and not self._closed:
                replica.engine, replica.num_failures = engine, 0
                _log.warning("%s is used again", replica.name)
                unused, replica.retired = replica.retired, []
            else:
                unused = [engine]
        await asyncio.gather(*(each.aclose() for each in unused))

    async def aclose(self) -> None:
        """Close every replica. Open streams end with EngineClosedError."""
        with self._lock:
            self._closed = True
            engines = [e for r in self._replicas for e in (r.engine, *r.retired) if e is not None]
        await asyncio.gather(*(engine.aclose() for engine in engines))


def _is_replicas_fault(error: BaseException) -> bool:
    """Tell whether another replica may do better: not where the request itself is refused."""
    if isinstance(error, EngineRequestError):
        return error.retryable
    return isinstance(error, _REPLICA_FAILURES)


def _as_engine_error(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return EngineConnectionError(str(error))
