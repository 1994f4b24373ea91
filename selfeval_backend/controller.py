"""The loop: ask the policy, carry out its decision with the engine, look again.

The only place where decisions meet I/O. Whatever ends a run, every stream is closed, and what was
paid for is accounted for.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from selfeval_backend.chat import StopStrings
from selfeval_backend.engine.base import (
    Capabilities,
    Chunk,
    Engine,
    SampleStream,
    SamplingParams,
)
from selfeval_backend.engine.checks import check_grammar
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineError,
    NoFinishedSampleError,
    SelfEvaluationError,
)
from selfeval_backend.policy import Policy, certain_winner, select_best
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.types import (
    Accept,
    Advance,
    Decision,
    Draw,
    Evaluate,
    FinishReason,
    Limits,
    Outcome,
    Prune,
    RunState,
    RunTrace,
    Sample,
    Stop,
    TraceEvent,
    Usage,
)

__all__ = ["Follower", "OnProgress", "Validator", "derive_seed", "run"]

OnProgress = Callable[[TraceEvent], None]
"""Told of every decision once it has been carried out."""

Validator = Callable[[tuple[int, ...]], bool | None]
"""Tells whether the tokens of a finished sample are of the form that was asked for; None: no form
was. Pure."""

Follower = Callable[[Sample], None]
"""Told of the sample that is certain to be the answer if it finishes: as it stands when that is
known, and whenever it has grown."""

_STOP_STRING_TOKENS = 8
"""Where there are stop strings, a sample is looked at after so many tokens."""
_EVALUATION_GRACE_S = 1.0
"""How long finished samples may still be evaluated once `max_seconds` is over."""


def derive_seed(run_seed: int, sample_index: int) -> int:
    """Return the seed of one sample, in [0, 2**63): hashed, so that near run seeds share none."""
    digest = hashlib.blake2b(f"{run_seed}/{sample_index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


async def run(
    prompt_ids: tuple[int, ...],
    *,
    engine: Engine,
    evaluator: SelfEvaluator,
    policy: Policy,
    limits: Limits,
    sampling: SamplingParams,
    stop_strings: StopStrings | None = None,
    validator: Validator | None = None,
    on_progress: OnProgress | None = None,
    follower: Follower | None = None,
) -> Outcome:
    """Answer one prompt.

    Args:
        prompt_ids: The rendered prompt.
        engine: Where samples come from.
        evaluator: The self-evaluation of the engine's model.
        policy: Decides.
        limits: What may be spent.
        sampling: How samples are drawn; `temperature` and `seed` are the policy's and the run's:
            the policy gives each sample its own temperature, and its seed is derived from `seed`.
        stop_strings: End a sample as an end token does. Its tokens up to the one that completes
            the string stay; its text is to be cut (`StopStrings.cut`).
        validator: Tells which finished samples are of the form that was asked for
            (`Sample.valid`): another one is chosen only where there is none. None: all that have a
            token are.
        on_progress: Told of every step.
        follower: Told of the answer as it grows, from when it is certain which sample that is.

    Raises:
        ConfigurationError: Prompt, policy and engine do not fit together; before any token.
        NoFinishedSampleError: The run ended before any sample had finished; carries the trace.
    """
    _check_fit(prompt_ids, engine, evaluator, policy, sampling)
    current = _Run(
        prompt_ids,
        engine,
        evaluator,
        limits,
        sampling,
        policy.checkpoints,
        stop_strings,
        validator,
    )
    try:
        while not isinstance(decision := policy.decide(state := current.state()), Stop):
            if follower is not None:
                current.follow(certain_winner(state), follower)
            await current.carry_out(decision)
            current.record(decision, on_progress)
        await current.abort_running()
        current.record(decision, on_progress)
        return current.outcome(decision)
    finally:
        await current.close()


def _check_fit(
    prompt_ids: tuple[int, ...],
    engine: Engine,
    evaluator: SelfEvaluator,
    policy: Policy,
    sampling: SamplingParams,
) -> None:
    if not prompt_ids:
        raise ConfigurationError("prompt", prompt_ids, "at least one token")
    capabilities = engine.capabilities
    if policy.checkpoints and not capabilities.evaluates_mid_generation:
        raise ConfigurationError(
            "prune_at",
            policy.checkpoints,
            f"no checkpoint, as the engine {capabilities.name!r} cannot evaluate mid-generation",
            remedy="Leave prune_at out, or choose another engine.",
        )
    if policy.checkpoints and policy.checkpoints[-1] >= sampling.max_tokens:
        raise ConfigurationError(
            "prune_at",
            policy.checkpoints[-1],
            f"a checkpoint below max_tokens ({sampling.max_tokens})",
        )
    if sampling.grammar is not None:
        check_grammar(sampling.grammar, capabilities)
    reserved = sampling.max_tokens + len(evaluator.question_ids)
    if len(prompt_ids) + reserved > capabilities.context_length:
        raise ContextLengthError(
            num_prompt_tokens=len(prompt_ids),
            num_reserved_tokens=reserved,
            context_length=capabilities.context_length,
        )


class _Live:
    """A sample and its open stream."""

    def __init__(
        self,
        sample: Sample,
        stream: SampleStream,
        stops: StopStrings | None,
        validator: Validator | None,
        *,
        trained_on_cut_off: bool,
    ) -> None:
        self.sample = sample
        self.stream = stream
        self._stops = stops
        self._validator = validator
        self._trained_on_cut_off = trained_on_cut_off
        self._ahead: tuple[int, ...] = ()
        self._finish: FinishReason | None = None
        self.follower: Follower | None = None
        """Told whenever the sample has grown."""

    async def advance(self, until: int | None, account: Callable[[Chunk], bool]) -> bool:
        """Take chunks until the sample has `until` tokens or ends, or `account` says no more.

        Returns:
            Whether a stop string ended it, so that its stream goes on for nothing.

        An engine that does not pause may have run ahead: what is past `until` is held back, so that
        the policy sees a sample exactly at its checkpoint.
        """
        in_budget, stopped = True, False
        while not self._reveal(until) and in_budget:
            try:
                chunk = await anext(self.stream)
            except StopAsyncIteration:
                raise EngineError("a stream ended without a finish_reason") from None
            in_budget = account(chunk)
            self.pay(chunk)
            self._ahead += chunk.token_ids
            self._finish = chunk.finish_reason
            stopped = stopped or self._cut_at_stop_string(len(chunk.token_ids))
        return stopped

    def pay(self, chunk: Chunk) -> None:
        """Add what a chunk cost, whatever becomes of its tokens."""
        logprob = self.sample.sum_logprob
        if chunk.logprobs is not None:
            logprob = (logprob or 0.0) + sum(chunk.logprobs)
        self.sample = replace(
            self.sample,
            num_generated_tokens=self.sample.num_generated_tokens + chunk.num_generated_tokens,
            sum_logprob=logprob,
        )

    def _cut_at_stop_string(self, num_new: int) -> bool:
        """Drop what is behind a stop string that the newest tokens complete, if they do."""
        if self._stops is None:
            return False
        shown = self.sample.token_ids
        end = self._stops.find_end(shown + self._ahead, num_new=num_new)
        if end is None:
            return False
        self._ahead = self._ahead[: end - len(shown)]
        self._finish = "stop"
        return True

    def _reveal(self, until: int | None) -> bool:
        """Show held-back tokens up to `until`; tell whether the sample needs to go no further."""
        shown = self.sample.token_ids
        room = len(self._ahead) if until is None else max(0, until - len(shown))
        if room and self._ahead:
            shown += self._ahead[:room]
            self._ahead = self._ahead[room:]
            self.sample = replace(self.sample, token_ids=shown)
            if self.follower is not None:
                self.follower(self.sample)
        if until is not None and len(shown) >= until:
            # Its end may be known already; an engine that pauses here would not know it yet.
            return True
        if self._finish is not None and not self._ahead:
            self.sample = replace(
                self.sample,
                status="finished",
                finish_reason=self._finish,
                valid=self._valid(shown),
                beyond_training=self._finish == "length" and not self._trained_on_cut_off,
            )
            return True
        return False

    def _valid(self, token_ids: tuple[int, ...]) -> bool | None:
        if not token_ids:
            return False
        return None if self._validator is None else self._validator(token_ids)


class _Run:
    """The changing half of a run: open streams, usage, events."""

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        engine: Engine,
        evaluator: SelfEvaluator,
        limits: Limits,
        sampling: SamplingParams,
        checkpoints: tuple[int, ...],
        stop_strings: StopStrings | None,
        validator: Validator | None,
    ) -> None:
        self._prompt_ids = prompt_ids
        self._engine = engine
        self._evaluator = evaluator
        self._limits = limits
        self._stop_strings = stop_strings
        self._validator = validator
        self._sampling = replace(sampling, checkpoints=checkpoints)
        if stop_strings is not None:
            self._sampling = _watched(self._sampling, pauses=self._pauses)
        self._live: list[_Live] = []
        self._usage = Usage()
        self._events: list[TraceEvent] = []
        self._accepted: int | None = None
        self._fault: EngineError | SelfEvaluationError | None = None
        self._began = time.monotonic()

    @property
    def _pauses(self) -> bool:
        return self._engine.capabilities.pauses_at_checkpoints

    def state(self) -> RunState:
        """Return the state as it stands."""
        return RunState(
            limits=self._limits,
            samples=tuple(live.sample for live in self._live),
            usage=self._usage,
            elapsed_s=time.monotonic() - self._began,
            fault=None if self._fault is None else str(self._fault),
            accepted=self._accepted,
        )

    def follow(self, winner: int | None, follower: Follower) -> None:
        """Let the follower know of a winner that has become certain."""
        if winner is not None and self._live[winner].follower is None:
            self._live[winner].follower = follower
            follower(self._live[winner].sample)

    async def carry_out(self, decision: Decision) -> None:
        """Do what the policy decided; an engine's fault is noted, not raised."""
        try:
            match decision:
                case Draw(temperatures=temperatures):
                    self._draw(temperatures)
                case Advance(until=until):
                    await self._advance(until)
                case Evaluate(samples=indices):
                    await self._evaluate([self._live[i] for i in indices])
                case Prune(samples=indices):
                    await self._prune([self._live[i] for i in indices])
                case Accept(sample=index):
                    self._accepted = index
                case Stop():
                    raise AssertionError("the loop ends before a Stop is carried out")
        except (EngineError, SelfEvaluationError) as error:
            self._fault = error

    def _draw(self, temperatures: Iterable[float]) -> None:
        for temperature in temperatures:
            index = len(self._live)
            seed = derive_seed(self._sampling.seed, index)
            params = replace(self._sampling, temperature=temperature, seed=seed)
            sample = Sample(index=index, temperature=temperature, seed=seed)
            stream = self._engine.stream(self._prompt_ids, params)
            self._live.append(
                _Live(
                    sample,
                    stream,
                    self._stop_strings,
                    self._validator,
                    trained_on_cut_off=self._evaluator.config.trained_on_cut_off,
                )
            )

    async def _advance(self, until: int | None) -> None:
        running = [live for live in self._live if live.sample.status == "running"]
        over_budget = asyncio.Event()

        def account(live: _Live, chunk: Chunk) -> bool:
            self._account(live, chunk)
            limit = self._limits.max_total_tokens
            if limit is not None and self._usage.total_tokens >= limit:
                over_budget.set()
            return not over_budget.is_set()

        async def advance(live: _Live) -> None:
            stopped = await live.advance(until, partial(account, live))
            if stopped and not self._pauses:
                # It runs on behind its stop string. One that pauses keeps its KV cache till asked.
                await self._end(live)

        advances = [asyncio.ensure_future(advance(live)) for live in running]
        await _until_done_or(advances, over_budget, self._seconds_left())

    def _account(self, live: _Live, chunk: Chunk) -> None:
        first = live.sample.num_generated_tokens == 0 and chunk.num_generated_tokens > 0
        self._usage += Usage(
            prompt_tokens=len(self._prompt_ids) if first else 0,
            cached_prompt_tokens=chunk.cached_prompt_tokens,
            generated_tokens=chunk.num_generated_tokens,
            resent_tokens=chunk.resent_tokens,
            cached_resent_tokens=chunk.cached_resent_tokens,
        )

    async def _end(self, live: _Live) -> None:
        """Close a sample's stream, and pay for what it generated unseen."""
        last_word = await live.stream.aclose()
        self._account(live, last_word)
        live.pay(last_word)

    def _seconds_left(self) -> float | None:
        if self._limits.max_seconds is None:
            return None
        return max(0.0, self._limits.max_seconds - (time.monotonic() - self._began))

    async def _evaluate(self, lives: list[_Live]) -> None:
        seconds_left = self._seconds_left()
        timeout = None if seconds_left is None else seconds_left + _EVALUATION_GRACE_S
        try:
            async with asyncio.timeout(timeout):
                # All of them to their end, so that none goes on once the run is over.
                results = await asyncio.gather(
                    *map(self._evaluate_one, lives), return_exceptions=True
                )
        except TimeoutError:
            raise EngineError("a self-evaluation outlasted max_seconds") from None
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _evaluate_one(self, live: _Live) -> None:
        sample = live.sample
        answer = await self._evaluator.ask(self._engine, self._prompt_ids, sample.token_ids)
        self._usage += answer.usage  # whether or not it can be read
        evaluation = self._evaluator.read(
            answer.logprobs, num_tokens=len(sample.token_ids), final=sample.finished
        )
        live.sample = replace(sample, evaluations=(*sample.evaluations, evaluation))
        if sample.finished:
            await self._end(live)

    async def _prune(self, lives: list[_Live]) -> None:
        await asyncio.gather(*map(self._end, lives))
        for live in lives:
            live.sample = replace(live.sample, status="pruned")
            self._usage += Usage(pruned_tokens=live.sample.num_generated_tokens)

    async def abort_running(self) -> None:
        """End what still runs."""
        running = [live for live in self._live if live.sample.status == "running"]
        await asyncio.gather(*map(self._end, running))
        for live in running:
            live.sample = replace(live.sample, status="aborted")

    def record(self, decision: Decision, on_progress: OnProgress | None) -> None:
        """Append to the trace, and tell the on_progress."""
        samples = [live.sample for live in self._live]
        event = TraceEvent(
            decision=decision,
            elapsed_s=time.monotonic() - self._began,
            usage=self._usage,
            num_running=sum(s.status == "running" for s in samples),
            num_finished=sum(s.finished for s in samples),
        )
        self._events.append(event)
        if on_progress is not None:
            on_progress(event)

    def outcome(self, stop: Stop) -> Outcome:
        """Choose, and account for everything."""
        state = self.state()
        trace = RunTrace(
            events=tuple(self._events),
            samples=state.samples,
            usage=self._usage,
            engine=_name(self._engine.capabilities),
            shaping=self._sampling.shaping,
            fault=state.fault,
        )
        best = select_best(state.samples, accepted=state.accepted)
        if best is None:
            reason = f"{stop.reason}: {state.fault}" if state.fault else stop.reason
            raise NoFinishedSampleError(reason, trace=trace) from self._fault
        evaluation = best.evaluation
        return Outcome(
            best=best.index,
            samples=state.samples,
            confidence=best.confidence,
            calibrated=evaluation is not None and evaluation.calibrated,
            stop_reason=stop.reason,
            usage=self._usage,
            trace=trace,
        )

    async def close(self) -> None:
        """Close every stream; one that fails to close does not keep the others open."""
        await asyncio.gather(*(live.stream.aclose() for live in self._live), return_exceptions=True)


def _name(capabilities: Capabilities) -> str:
    return capabilities.name + (" (resubmitting)" if capabilities.resubmits else "")


def _watched(sampling: SamplingParams, *, pauses: bool) -> SamplingParams:
    """Let samples be looked at every few tokens, so that little is generated past a stop string."""
    if not pauses:
        chunk_tokens = min(_STOP_STRING_TOKENS, sampling.chunk_tokens or _STOP_STRING_TOKENS)
        return replace(sampling, chunk_tokens=chunk_tokens)
    stands = range(_STOP_STRING_TOKENS, sampling.max_tokens, _STOP_STRING_TOKENS)
    return replace(sampling, checkpoints=tuple(sorted({*sampling.checkpoints, *stands})))


async def _until_done_or(
    tasks: Sequence[asyncio.Future[None]], over: asyncio.Event, timeout: float | None
) -> None:
    """Wait for all tasks, the event, or the time; cancel what is left; raise the first error."""
    everything = asyncio.gather(*tasks)
    interrupt = asyncio.ensure_future(over.wait())
    either: set[asyncio.Future[Any]] = {everything, interrupt}
    try:
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if everything.done():
            everything.result()
    finally:
        interrupt.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *either, return_exceptions=True)
