"""Scorers that are not ours, in processes of their own: each response has a deadline.

Threads fail here: a regular expression or a power of powers holds the interpreter's lock, and then
nothing else runs, Ctrl-C neither. Processes are started when the first response comes, one for each
that is scored at once, up to a number; one that is killed is replaced by the next response's.

They are plain ones, told by JSON over a socket: unlike those of `multiprocessing` they run nothing
of the main module, and lead a session, so that what a scorer forks ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.forks import Lock
from selfeval_backend.scorers.base import Scored, Scoring
from selfeval_backend.scorers.spec import ScorerSpec
from selfeval_backend.scorers.worker import message_of

__all__ = ["ScorerPool", "default_timeout_s"]

_LOADING_S = 120.0
"""A function's module may load a model."""
_ENDING_S = 1.0
"""How long an idle process may take to end by itself."""
_MOST_WORKERS = 8
_LIBRARY_BYTES = 4 * 2**30
"""Of address space, for a pattern or math-verify."""

_COMMAND = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from selfeval_backend.scorers.worker import serve
serve(int(sys.argv[1]))
"""


def default_timeout_s(spec: ScorerSpec) -> float:
    """Return how long a response may take, unless it is set.

    Of eight forms of answers, 200 times on a busy machine of two cores, math-verify took 16 ms in
    the middle, 194 ms at most and 1.1 s for the first one, which loads its parser. A function may
    ask a server.
    """
    return 60.0 if spec.kind == "function" else 5.0


class ScorerPool:
    """Scores with a scorer that may hang or crash.

    Args:
        spec: Which.
        field: The setting that names it, for errors.
        with_rows: Whether a function is given ``(response, row)``.
        timeout_s: Of one response; None: `default_timeout_s`.
        workers: Most processes; None: one a core, eight at most.

    Raises:
        ConfigurationError: A value is out of range.
    """

    def __init__(
        self,
        spec: ScorerSpec,
        *,
        field: str,
        with_rows: bool,
        timeout_s: float | None = None,
        workers: int | None = None,
    ) -> None:
        self.timeout_s = default_timeout_s(spec) if timeout_s is None else timeout_s
        self._num_workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        self._order = {
            "spec": asdict(spec),
            "field": field,
            "with_rows": with_rows,
            "timeout_s": self.timeout_s,
            "memory": _memory_limit(spec),
            "folder": str(Path.cwd()),
        }
        self._free: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = Lock()
        self._room = threading.BoundedSemaphore(self._num_workers)
        self._closed = False
        # Also at the interpreter's end; a process that was forked from this one leaves them alone.
        weakref.finalize(self, _end, self._all, os.getpid())

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response, in order; blocks.

        Raises:
            ConfigurationError: The scorer cannot be loaded.
        """
        if len(items) <= 1:
            return [self._score(item) for item in items]
        with ThreadPoolExecutor(min(self._num_workers, len(items))) as threads:
            try:
                return list(threads.map(self._score, items))
            except BaseException:
                self.close()  # so that the threads end at once
                raise

    def start(self) -> None:
        """Load the scorer in a first process, and keep that for the first response.

        Raises:
            ConfigurationError: It cannot be loaded.
        """
        with self._room:
            worker = self._take()
            with self._lock:
                self._free.append(worker)

    def close(self) -> None:
        """End all processes; what is being scored is an error."""
        with self._lock:
            self._closed = True
            self._free.clear()
        _end(self._all, os.getpid())

    def _score(self, item: Scoring) -> Scored:
        with self._room:
            if self._closed:
                return Scored(error="the scorer was closed")
            worker = self._take()
            try:
                scored = worker.score(item, self.timeout_s)
            except BaseException:
                self._drop(worker)
                raise
            if worker.is_broken or self._closed:
                self._drop(worker)
            else:
                with self._lock:
                    self._free.append(worker)
            return scored

    def _take(self) -> _Worker:
        with self._lock:
            if self._free:
                return self._free.pop()
        worker = _Worker(self._order)
        with self._lock:
            self._all.add(worker)
        try:
            worker.load(_LOADING_S)
        except BaseException:
            self._drop(worker)
            raise
        return worker

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._all.discard(worker)


def _end(workers: set[_Worker], owner: int) -> None:
    """End processes: idle ones by themselves, busy ones at once."""
    while workers and os.getpid() == owner:
        with suppress(KeyError):
            workers.pop().end()


def _memory_limit(spec: ScorerSpec) -> dict[str, int]:
    """Return limits by the names of `resource`.

    A function may reserve addresses that it never uses, as CUDA does; so what it writes to counts.
    """
    if spec.kind != "function":
        return {"RLIMIT_AS": _LIBRARY_BYTES}
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no POSIX
        return {}
    return {"RLIMIT_DATA": machine // 2}


class _Worker:
    """One process, used by one thread at a time.

    Args:
        order: What it is to load.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: no folder comes before the libraries that this process itself uses.
                [sys.executable, "-P", "-c", _COMMAND, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),  # a function may print: our stdout is for results
                cwd=order["folder"],
                start_new_session=True,
            )
        self._connection: Connection[Any, Any] = Connection(mine.detach())
        self._order = order
        self.is_broken = False
        self._is_busy = False

    def load(self, timeout_s: float) -> None:
        """Wait until the scorer is loaded.

        Raises:
            ConfigurationError: It cannot be.
        """
        field, name = self._order["field"], ScorerSpec(**self._order["spec"]).name
        answer = self._ask(json.dumps(self._order).encode(), timeout_s)
        if isinstance(answer, str):
            raise ConfigurationError(
                field, name, "a scorer that can be loaded", remedy=f"Loading it: {answer}."
            )
        if "failed" in answer:
            raise ConfigurationError(
                field, name, "a scorer that can be loaded", remedy=f"{answer['failed']}."
            )
        if answer:
            raise ConfigurationError(
                answer["field"], answer["value"], answer["allowed"], remedy=answer["remedy"]
            )

    def score(self, item: Scoring, timeout_s: float) -> Scored:
        """Return the scorer's result for a response, or its error."""
        answer = self._ask(message_of(item), timeout_s)
        return Scored(error=answer) if isinstance(answer, str) else Scored(**answer)

    def _ask(self, message: bytes, timeout_s: float) -> dict[str, Any] | str:
        """Return the process's answer; as text what happened to it instead."""
        self._is_busy = True
        try:
            self._connection.send_bytes(message)
            if not self._connection.poll(timeout_s):
                self.kill()
                return f"the scorer did not answer within {timeout_s:g} s"
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            return f"the scorer's process ended: {self._how_it_ended()}"
        self._is_busy = False
        return answer

    def _how_it_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_S)
        self.kill()
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def kill(self) -> None:
        """End the process and what it has forked, now."""
        self.is_broken = True
        self._signal()
        self._process.wait()
        self._connection.close()

    def _signal(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End the process: an idle one by itself, if it is quick.

        Of a busy one the thread that waits for its answer sees the end, and tidies up.
        """
        if self._is_busy:
            self._signal()
            self._process.wait()
            return
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_S)
        self.kill()


def _stderr() -> int:
    """Return where a scorer's prints go."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
