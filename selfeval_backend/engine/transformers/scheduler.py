"""Which row runs, where it lies, and when it stands still. No tensors, no threads, no I/O.

A row is one open stream. Running rows lie in slots 0 to n - 1 without a gap, so that a decoding
step reads the cache as a view; rows that stand still (at a checkpoint, or finished but still open)
lie behind them, and keep their keys and values.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.engine.mailbox import Delivery, Mailbox
from selfeval_backend.types import FinishReason

__all__ = ["Guide", "Match", "Move", "Row", "Scheduler"]

PREFILL_TOKENS = 8192
"""Most tokens, padding included, of one forward pass over prompts (one prompt may be longer)."""


State = Literal["new", "waiting", "running", "paused", "finished", "closed"]
"""`waiting` is for a place: a new row, or one that goes on after it was `paused`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A slot's contents go to another."""

    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An open row that shares a prefix with a sequence."""

    row: Row
    length: int
    """Shared tokens whose keys and values the row holds."""


class Guide(Protocol):
    """Follows a row's text along its grammar."""

    def take(self, token_id: int) -> None:
        """Go on by a token that was drawn."""
        ...

    def allowed(self) -> bytes | None:
        """Return the tokens that may follow, one bit each, lowest first; None after a failure."""
        ...

    @property
    def failure(self) -> str:
        """Why it cannot be followed further; empty if it can."""
        ...


class Row:
    """One open stream.

    Args:
        prompt_ids: At least one.
        params: How it is sampled.
        chunk_tokens: Most tokens of a chunk, if `params` do not say.
    """

    __slots__ = (
        "_checkpoint",
        "_chunk_logprobs",
        "_chunk_tokens",
        "_later_checkpoints",
        "_num_cached_prompt_tokens",
        "_num_delivered",
        "guide",
        "mailbox",
        "num_cached",
        "num_generated",
        "params",
        "prompt_ids",
        "slot",
        "state",
        "token_ids",
    )

    def __init__(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, chunk_tokens: int
    ) -> None:
        self.prompt_ids = prompt_ids
        self.params = params
        self.mailbox: Mailbox[Delivery]  # set once its consumer's event loop is known
        self.guide: Guide | None = None  # set before it begins, if `params` have a grammar
        self.state: State = "new"
        self.slot: int | None = None
        self.token_ids = list(prompt_ids)
        """Prompt and generated tokens, the stop token left out."""
        self.num_cached = 0
        """Positions whose keys and values are in the slot: all but the last token's, unless that
        was followed by the stop token."""
        self.num_generated = 0
        self._later_checkpoints = iter(params.checkpoints)
        self._checkpoint = next(self._later_checkpoints, None)
        self._chunk_tokens = params.chunk_tokens or chunk_tokens
        self._chunk_logprobs: list[float] = []
        self._num_delivered = 0  # generated tokens that went out in chunks
        self._num_cached_prompt_tokens = 0

    @property
    def runs(self) -> bool:
        """Whether it takes part in decoding."""
        return self.state == "running"

    def start(self, *, num_cached_prompt_tokens: int) -> None:
        """Let it run: the prompt's keys and values are in the slot."""
        self.num_cached = len(self.prompt_ids)
        self._num_cached_prompt_tokens = num_cached_prompt_tokens
        self.state = "running"

    def accept(self, token_id: int, logprob: float | None) -> Delivery | None:
        """Take the token that was drawn for it.

        Returns:
            A chunk, if one ends here; the state then says whether the row goes on.
        """
        params = self.params
        self.num_generated += 1
        if params.logprobs and logprob is not None:
            self._chunk_logprobs.append(logprob)
        if token_id in params.stop_token_ids:
            return self._finish("stop")
        if self.guide is not None:
            self.guide.take(token_id)
        self.token_ids.append(token_id)
        if self.num_generated == params.max_tokens:
            return self._finish("length")
        if self.num_generated == self._checkpoint:
            self._checkpoint = next(self._later_checkpoints, None)
            self.state = "paused"
            return Delivery(chunk=self._chunk(None), paused=True)
        if self.num_generated - self._num_delivered >= self._chunk_tokens:
            return Delivery(self._chunk(None))
        return None

    def last_word(self) -> Delivery:
        """Return what was generated and went out in no chunk."""
        return Delivery(self._chunk(None), is_last_word=True)

    def _finish(self, reason: FinishReason) -> Delivery:
        self.state = "finished"
        return Delivery(self._chunk(reason))

    def _chunk(self, reason: FinishReason | None) -> Chunk:
        first = self._num_delivered == 0
        chunk = Chunk(
            token_ids=tuple(self.token_ids[len(self.prompt_ids) + self._num_delivered :]),
            num_generated_tokens=self.num_generated - self._num_delivered,
            finish_reason=reason,
            cached_prompt_tokens=self._num_cached_prompt_tokens if first else 0,
            logprobs=tuple(self._chunk_logprobs) if self.params.logprobs else None,
        )
        self._num_delivered = self.num_generated
        self._chunk_logprobs.clear()
        return chunk


class Scheduler:
    """Decides which rows run, and in which slots.

    Args:
        max_batch: Most rows that run at once; more wait, first come, first served. Rows that stand
            still do not count, or consumers who wait for each other could wait for ever.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._waiting: deque[Row] = deque()
        self.slots: list[Row | None] = []
        """By slot; None is free."""
        self.running: list[Row] = []
        """In slots 0 to n - 1, as of the last `settle`."""
        self.unsettled = False
        """Whether rows began or ceased to run since the last `settle`."""
        self._by_prompt: dict[tuple[int, ...], list[Row]] = {}
        self._prompt_lengths: Counter[int] = Counter()  # of the distinct prompts

    @property
    def open_rows(self) -> list[Row]:
        """Every row that was added and not dropped."""
        placed = [row for row in self.slots if row is not None]
        return placed + [row for row in self._waiting if row.slot is None]

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a place."""
        return bool(self._waiting)

    @property
    def num_positions(self) -> int:
        """Positions that the longest row takes, its next token's included."""
        return max((len(row.token_ids) for row in self.slots if row is not None), default=0)

    def enqueue(self, row: Row) -> None:
        """Line a row up: a new one, or one that goes on after a checkpoint."""
        # A stream that is closed in the turn in which it began is dropped before it comes here.
        if row.state in ("new", "paused"):
            row.state = "waiting"
            self._waiting.append(row)

    def drop(self, row: Row) -> None:
        """Forget a row, and free its slot."""
        if row.state == "closed":
            return
        if row.state == "waiting":
            self._waiting.remove(row)
        row.state = "closed"
        if row.slot is None:
            return
        self.slots[row.slot] = None
        self.unsettled = True
        peers = self._by_prompt[row.prompt_ids]
        peers.remove(row)
        if not peers:
            del self._by_prompt[row.prompt_ids]
            self._prompt_lengths[len(row.prompt_ids)] -= 1

    def admit(self) -> list[Row]:
        """Let waiting rows in, as far as there is room.

        Returns:
            The new ones among them, for one forward pass over their prompts; they have no slot yet.
            Those that go on after a checkpoint run at once.
        """
        new: list[Row] = []
        prompts: set[tuple[int, ...]] = set()
        room = self._max_batch - len(self.running)
        while self._waiting and room > 0:
            row = self._waiting[0]
            if row.slot is None:
                prompts.add(row.prompt_ids)
                if new and len(prompts) * max(map(len, prompts)) > PREFILL_TOKENS:
                    break
                new.append(row)
                row.state = "new"
            else:
                row.state = "running"
                self.unsettled = True
            self._waiting.popleft()
            room -= 1
        return new

    def place(self, rows: Iterable[Row]) -> None:
        """Give new rows the lowest free slots, in order."""
        free = iter([slot for slot, row in enumerate(self.slots) if row is None])
        for row in rows:
            row.slot = next(free, len(self.slots))
            if row.slot == len(self.slots):
                self.slots.append(row)
            else:
                self.slots[row.slot] = row
            if row.prompt_ids not in self._by_prompt:
                self._prompt_lengths[len(row.prompt_ids)] += 1
            self._by_prompt.setdefault(row.prompt_ids, []).append(row)
        self.unsettled = True

    def settle(self) -> list[Move]:
        """Bring the running rows to the front.

        Returns:
            Moves to carry out on the cache all at once: two slots may swap.
        """
        placed = [row for row in self.slots if row is not None]
        num_running = sum(row.runs for row in placed)
        strays = [row for row in self.slots[num_running:] if row is not None and row.runs]
        gaps = [
            slot for slot, row in enumerate(self.slots[:num_running]) if row is None or not row.runs
        ]
        moves = [
            move
            for stray, gap in zip(strays, gaps, strict=True)
            for move in self._exchange(stray, gap)
        ]
        while self.slots and self.slots[-1] is None:
            self.slots.pop()
        self.running = [row for row in self.slots[:num_running] if row is not None]
        self.unsettled = False
        return moves

    def match(self, token_ids: Sequence[int]) -> Match | None:
        """Find the open row whose keys and values serve the most of a sequence.

        At least the sequence's last token is left to compute.
        """
        best: Match | None = None
        wanted = len(token_ids) - 1
        for row in self._candidates(tuple(token_ids)):
            limit = min(row.num_cached, wanted)
            length = _num_shared(row.token_ids, token_ids, len(row.prompt_ids), limit)
            if length > (best.length if best else 0):
                best = Match(row=row, length=length)
            if length == wanted:
                break
        return best

    def _candidates(self, token_ids: tuple[int, ...]) -> Iterable[Row]:
        """Yield the rows whose whole prompt the sequence begins with."""
        for length, num_prompts in self._prompt_lengths.items():
            if num_prompts and length <= len(token_ids):
                yield from self._by_prompt.get(token_ids[:length], ())

    def _exchange(self, stray: Row, gap: int) -> list[Move]:
        """Put a row in a slot, and what is there, if anything, where the row was."""
        assert stray.slot is not None
        source, other = stray.slot, self.slots[gap]
        self.slots[gap], self.slots[source] = stray, other
        stray.slot = gap
        moves = [Move(source=source, target=gap)]
        if other is not None:
            other.slot = source
            moves.append(Move(source=gap, target=source))
        return moves


def _num_shared(left: Sequence[int], right: Sequence[int], start: int, limit: int) -> int:
    """Count the leading tokens that two sequences share, up to a limit; the first `start` do."""
    for index in range(start, limit):
        if left[index] != right[index]:
            return index
    return limit
