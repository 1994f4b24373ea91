"""The thread that owns the model: one step after another, for all rows of all callers.

A step is: take in what callers asked for; evaluate; let waiting rows in; decode one token of every
running row; hand out what is ready. Evaluations go first, because somebody waits for them before
deciding whether a row is worth going on with.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from transformers import PreTrainedModel

from selfeval_backend.engine.base import LabelLogprobs
from selfeval_backend.engine.mailbox import Mailbox, Postman
from selfeval_backend.engine.transformers.runner import ModelRunner, Segment
from selfeval_backend.engine.transformers.sampler import NOT_FINITE, Draws, Sampler
from selfeval_backend.engine.transformers.scheduler import Match, Row, Scheduler
from selfeval_backend.errors import EngineClosedError, EngineError, EngineResponseError
from selfeval_backend.forks import Home

__all__ = ["Command", "Evaluation", "Worker"]

_EVALUATION_TOKENS = 8192
"""Most tokens, padding included, of one forward pass over evaluations (one may be longer)."""


class Evaluation:
    """A request for label log-probabilities.

    Args:
        token_ids: At least one.
        label_ids: At least one.
        mailbox: The consumer's.
    """

    __slots__ = ("abandoned", "label_ids", "mailbox", "token_ids")

    def __init__(
        self,
        token_ids: tuple[int, ...],
        label_ids: tuple[int, ...],
        mailbox: Mailbox[LabelLogprobs],
    ) -> None:
        self.token_ids = token_ids
        self.label_ids = label_ids
        self.mailbox = mailbox
        self.abandoned = False
        """Set by the consumer, from any thread: it waits no more."""


Request: TypeAlias = Row | Evaluation
Command: TypeAlias = tuple[Literal["enqueue", "drop", "evaluate"], Request]


@dataclass(slots=True, kw_only=True)
class _Decoding:
    """Tensors of the rows that run; they hold until the set of rows changes."""

    token_ids: torch.Tensor  # [B], the last of each row
    positions: torch.Tensor  # [B], of these
    length: int  # one past the highest position
    aligned: bool  # whether all positions are the same
    sampler: Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """An evaluation, and what of it is cached."""

    evaluation: Evaluation
    segment: Segment


class Worker:
    """Runs a model in a daemon thread, which starts at the first command.

    Args:
        model: In evaluation mode; nobody else may use it while the thread runs.
        max_batch: Most rows that run at once.
    """

    def __init__(self, model: PreTrainedModel, *, max_batch: int) -> None:
        self._runner: ModelRunner | None = ModelRunner(model)
        self._max_batch = max_batch
        self._scheduler = Scheduler(max_batch)
        self._decoding: _Decoding | None = None
        self._evaluations: list[Evaluation] = []
        self._postman = Postman()
        self._inbox: deque[Command] = deque()
        self._wakeup = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.home = Home("transformers")

    @property
    def num_running(self) -> int:
        """Rows that generate."""
        return len(self._scheduler.running)

    @property
    def num_open(self) -> int:
        """Rows that are held: running, standing still or waiting."""
        return len(self._scheduler.open_rows)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def submit(self, commands: Sequence[Command]) -> None:
        """Hand commands in; from any thread. Once closed they fail with EngineClosedError.

        In a child process nothing happens: there is no thread that could answer.
        """
        if not self.home.is_here:
            return
        with self._wakeup:
            if not self._closing:
                self._inbox.extend(commands)
                self._wakeup.notify()
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="transformers-engine", daemon=True
                    )
                    self._thread.start()
                return
        postman = Postman()
        for kind, request in commands:
            if kind != "drop":
                postman.fail(request.mailbox, _closed())
        postman.deliver()

    def close(self, *, wait_s: float | None = None) -> None:
        """End everything that is open, and the thread; from any thread.

        Args:
            wait_s: How long to wait for the step that runs; None is until it is over.
        """
        if not self.home.is_here:
            return
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
            thread = self._thread
        if thread is None:
            self._runner = None
        elif thread is not threading.current_thread():
            thread.join(wait_s)

    def _run(self) -> None:
        assert self._runner is not None
        if self._runner.device.type == "cuda":
            torch.cuda.set_device(self._runner.device)
        with torch.inference_mode():
            while not self._closing:
                commands = self._wait()
                try:
                    self._take_in(commands)
                    self._step(self._runner)
                except Exception as error:  # noqa: BLE001  # the thread must outlive any step
                    self._start_over([request for _, request in commands], error)
                self._postman.deliver()
        self._start_over([request for _, request in self._inbox], None)
        self._postman.deliver()
        self._runner = None

    def _wait(self) -> list[Command]:
        """Wait until there is work, and return what was asked for meanwhile."""
        with self._wakeup:
            while not (self._inbox or self._closing or self._has_work()):
                self._wakeup.wait()
            commands = list(self._inbox)
            self._inbox.clear()
            return commands

    def _take_in(self, commands: Sequence[Command]) -> None:
        for kind, request in commands:
            if isinstance(request, Evaluation):
                self._evaluations.append(request)
            elif kind == "drop":
                self._scheduler.drop(request)
                self._postman.post(request.mailbox, request.last_word())
            else:
                self._scheduler.enqueue(request)

    def _has_work(self) -> bool:
        scheduler = self._scheduler
        return bool(scheduler.running or scheduler.has_waiting or scheduler.unsettled)

    def _step(self, runner: ModelRunner) -> None:
        self._settle(runner)
        if self._evaluations:
            self._evaluate(runner)
            self._postman.deliver()
        if self._scheduler.has_waiting:
            if new := self._scheduler.admit():
                self._prefill(runner, new)
            self._settle(runner)
        if self._scheduler.running:
            self._decode(runner)

    def _settle(self, runner: ModelRunner) -> None:
        """Bring the cache in line with the rows after some came, went or stopped."""
        scheduler = self._scheduler
        if not scheduler.unsettled:
            return
        self._decoding = None
        length = min(scheduler.num_positions, runner.cache.capacity)
        if moves := scheduler.settle():
            runner.cache.copy([m.source for m in moves], [m.target for m in moves], length)
        runner.cache.trim(len(scheduler.slots), scheduler.num_positions)

    def _prefill(self, runner: ModelRunner, rows: list[Row]) -> None:
        """Compute the prompts of new rows, each distinct one once, and draw the first tokens."""
        groups: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(row.prompt_ids, []).append(row)
        leaders = [group[0] for group in groups.values()]
        with self._failing(rows):
            matches = [self._scheduler.match(row.prompt_ids) for row in leaders]
            self._scheduler.place(leaders)
            self._scheduler.place(row for group in groups.values() for row in group[1:])
            runner.cache.fit(len(self._scheduler.slots), max(map(len, groups)) + 1)
            logits = _prefill_leaders(runner, leaders, matches)
            for leader, match in zip(leaders, matches, strict=True):
                leader.start(num_cached_prompt_tokens=match.length if match else 0)
                followers = groups[leader.prompt_ids][1:]
                _copy(runner, leader, followers, len(leader.prompt_ids))
                for row in followers:
                    row.start(num_cached_prompt_tokens=len(row.prompt_ids))
            ordered = [row for group in groups.values() for row in group]
            which = [index for index, group in enumerate(groups.values()) for _ in group]
            logits = logits[torch.tensor(which)]
            draws = _sampler(ordered, runner).draw(logits, _allowed(ordered, logits))
            self._accept(runner, ordered, draws)

    def _decode(self, runner: ModelRunner) -> None:
        """Compute and draw one token for every running row."""
        rows = self._scheduler.running
        with self._failing(rows):
            state = self._decoding
            if state is None:
                state = self._decoding = _decoding(rows, runner)
            runner.cache.fit(len(self._scheduler.slots), state.length)
            logits = runner.decode(
                state.token_ids, state.positions, length=state.length, aligned=state.aligned
            )
            draws = state.sampler.draw(logits, _allowed(rows, logits))
            state.token_ids = draws.token_ids
            state.positions += 1
            state.length += 1
            for row in rows:
                row.num_cached += 1
            self._accept(runner, rows, draws)

    def _accept(self, runner: ModelRunner, rows: Sequence[Row], draws: Draws) -> None:
        """Give each row its token, and post the chunks that end there."""
        token_ids: list[int] = draws.token_ids.tolist()  # the step's one wait for the device
        logprobs = [None] * len(rows) if draws.logprobs is None else draws.logprobs.tolist()
        broken = []
        for row, token_id, logprob in zip(rows, token_ids, logprobs, strict=True):
            if token_id == NOT_FINITE:
                broken.append(row)
            elif (delivery := row.accept(token_id, logprob)) is not None:
                self._postman.post(row.mailbox, delivery)
                self._scheduler.unsettled |= not row.runs
        for row in broken:
            assert row.slot is not None
            runner.cache.clear(row.slot)
            self._postman.fail(row.mailbox, _no_token(row))
            self._scheduler.drop(row)

    def _evaluate(self, runner: ModelRunner) -> None:
        """Answer every pending evaluation, in as few forward passes as memory allows."""
        pending = [e for e in self._evaluations if not e.abandoned]
        self._evaluations = []
        with self._failing(pending):
            for batch in _batches(_plan(pending, self._scheduler)):
                with self._failing([planned.evaluation for planned in batch]):
                    self._evaluate_batch(runner, batch)

    def _evaluate_batch(self, runner: ModelRunner, batch: list[_Planned]) -> None:
        logits = runner.extend([p.segment for p in batch], write=False).float()  # [B, V]
        widest = max(len(p.evaluation.label_ids) for p in batch)
        labels = [
            [*p.evaluation.label_ids, *[0] * (widest - len(p.evaluation.label_ids))] for p in batch
        ]
        chosen = logits.gather(1, torch.tensor(labels, device=logits.device))
        # log_softmax of a few entries only, and NaN where any logit of the row is.
        logprobs = (chosen - logits.logsumexp(dim=-1, keepdim=True)).tolist()
        finite = logits.amax(dim=-1).isfinite().tolist()
        for planned, row, usable in zip(batch, logprobs, finite, strict=True):
            evaluation, segment = planned.evaluation, planned.segment
            if not usable:
                if segment.appends:
                    runner.cache.clear(segment.slot, segment.start)
                self._postman.fail(evaluation.mailbox, _not_finite())
                continue
            answer = LabelLogprobs(
                logprobs=tuple(row[: len(evaluation.label_ids)]),
                computed_tokens=len(segment.token_ids),
                cached_tokens=segment.start,
            )
            self._postman.post(evaluation.mailbox, answer)

    @contextlib.contextmanager
    def _failing(self, requests: Sequence[Request]) -> Iterator[None]:
        """Fail these requests, and only these, with what the block raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever torch or the model raises
            self._fail(requests, error)

    def _fail(self, requests: Sequence[Request], cause: Exception) -> None:
        for request in list(requests):
            self._postman.fail(request.mailbox, _failure(cause))
            if isinstance(request, Row):
                self._scheduler.drop(request)

    def _start_over(self, requests: Sequence[Request], cause: Exception | None) -> None:
        """Fail these requests and everything open, and forget it all, memory included.

        When the engine is closed (no cause), and when the bookkeeping itself failed, and cannot be
        trusted any more.
        """
        for request in {*requests, *self._scheduler.open_rows, *self._evaluations}:
            self._postman.fail(request.mailbox, _failure(cause) if cause else _closed())
            if isinstance(request, Row):
                request.state = "closed"  # so that a later command for it is ignored
        self._scheduler, self._evaluations = Scheduler(self._max_batch), []
        self._decoding = None
        if self._runner is not None:
            self._runner.cache.trim(0, 0)


def _prefill_leaders(
    runner: ModelRunner, leaders: Sequence[Row], matches: Sequence[Match | None]
) -> torch.Tensor:
    """Compute what of the prompts no open row holds, and return logits [leaders, V]."""
    segments = []
    for row, match in zip(leaders, matches, strict=True):
        start = match.length if match else 0
        if match:
            _copy(runner, match.row, [row], start)
        segments.append(_segment(row.prompt_ids, start, row.slot, appends=True))
    return runner.extend(segments, write=True)


def _copy(runner: ModelRunner, source: Row, targets: Sequence[Row], length: int) -> None:
    slots = [row.slot for row in targets if row.slot is not None]
    if slots and source.slot is not None:
        runner.cache.copy([source.slot] * len(slots), slots, length)


def _segment(token_ids: tuple[int, ...], start: int, slot: int | None, *, appends: bool) -> Segment:
    return Segment(token_ids=token_ids[start:], start=start, slot=slot or 0, appends=appends)


def _sampler(rows: Sequence[Row], runner: ModelRunner) -> Sampler:
    return Sampler(
        [row.params for row in rows],
        [row.num_generated for row in rows],
        [row.token_ids for row in rows],
        runner.device,
    )


def _allowed(rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor | None:
    """Return the tokens that each row's grammar allows, bool [B, V]; None where no row has one."""
    guides = [(place, row.guide) for place, row in enumerate(rows) if row.guide is not None]
    if not guides:
        return None
    num_logits = logits.shape[1]
    allowed = torch.ones((len(rows), num_logits), dtype=torch.bool)
    allowed[[place for place, _ in guides]] = False  # also what the tokenizer has no token for
    given = [(place, bits) for place, guide in guides if (bits := guide.allowed()) is not None]
    if given:
        packed = torch.frombuffer(bytearray(b"".join(bits for _, bits in given)), dtype=torch.uint8)
        some = _unpack(packed.view(len(given), -1))[:, :num_logits]
        allowed[[place for place, _ in given], : some.shape[1]] = some
    return allowed.to(logits.device)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return the bits of bytes [B, N] as bools [B, 8N], the lowest of each byte first."""
    return ((packed[:, :, None] >> torch.arange(8)) & 1).bool().flatten(1)


def _decoding(rows: Sequence[Row], runner: ModelRunner) -> _Decoding:
    positions = [row.num_cached for row in rows]
    return _Decoding(
        token_ids=torch.tensor([row.token_ids[-1] for row in rows], device=runner.device),
        positions=torch.tensor(positions, device=runner.device),
        length=max(positions) + 1,
        aligned=len(set(positions)) == 1,
        sampler=_sampler(rows, runner),
    )


def _plan(evaluations: Sequence[Evaluation], scheduler: Scheduler) -> list[_Planned]:
    """Find out what each evaluation can read from the cache.

    Those that begin with all that a row holds may extend it in place; others need a copy.
    """
    planned = []
    for evaluation in evaluations:
        match = scheduler.match(evaluation.token_ids)
        if match is None or match.row.slot is None:
            segment = _segment(evaluation.token_ids, 0, None, appends=False)
        else:
            slot = match.row.slot
            appends = match.length == match.row.num_cached
            segment = _segment(evaluation.token_ids, match.length, slot, appends=appends)
        planned.append(_Planned(evaluation=evaluation, segment=segment))
    return planned


def _batches(planned: list[_Planned]) -> Iterator[list[_Planned]]:
    """Split evaluations into forward passes, short with short, so that little is padding."""
    batch: list[_Planned] = []
    for item in sorted(planned, key=lambda p: (len(p.segment.token_ids), p.segment.slot)):
        width = len(item.segment.token_ids)  # the widest so far
        if batch and (len(batch) + 1) * width > _EVALUATION_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _closed() -> EngineError:
    return EngineClosedError("The engine was closed.")


def _no_token(row: Row) -> EngineError:
    if row.guide is not None and row.guide.failure:
        return EngineResponseError(f"The grammar cannot be followed further: {row.guide.failure}")
    return _not_finite()


def _not_finite() -> EngineError:
    return EngineResponseError("The model's logits are not finite numbers.")


def _failure(cause: Exception) -> EngineError:
    exhausted = isinstance(cause, torch.OutOfMemoryError | MemoryError)
    error = EngineError(
        f"The model failed: {type(cause).__name__}: {cause}",
        retryable=exhausted,
        hint="Lower max_batch, or run fewer prompts at once." if exhausted else None,
    )
    error.__cause__ = cause
    return error
