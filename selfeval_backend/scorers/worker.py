"""The process that scores with what is not ours: it may hang, crash or be killed.

It is told what to load and then given one response after the other, as JSON in messages of
`multiprocessing.connection`. It runs in a session of its own, so that Ctrl-C does not reach it and
it is killed with all that it has forked.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from selfeval_backend.chat import Message
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.scorers.base import Scored, Scoring, said
from selfeval_backend.scorers.kinds import Judgement, make_judgement
from selfeval_backend.scorers.spec import ScorerSpec

__all__ = ["message_of", "serve"]

_GRACE_S = 30
"""The process ends itself so long after a deadline, should nobody be left to end it."""


def message_of(item: Scoring) -> bytes:
    """Return a response as it is sent."""
    body = {
        "response": item.response,
        "answer": item.answer,
        "prompt": item.messages[-1].content if item.messages else "",
        "row": item.row,
    }
    return json.dumps(body).encode()


def serve(fd: int) -> None:
    """Score what comes in, until nobody is there any more."""
    connection: Connection[Any, Any] = Connection(fd)
    order = json.loads(connection.recv_bytes())
    sys.set_int_max_str_digits(0)  # who converts long ones is killed at the deadline
    _limit_memory(order["memory"])
    # It says of every response that it has no time limit of its own.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    try:
        judgement = make_judgement(
            ScorerSpec(**order["spec"]), field=order["field"], with_rows=order["with_rows"]
        )
    except ConfigurationError as error:
        refusal = {"field": error.field, "value": error.value, "allowed": error.allowed}
        connection.send_bytes(json.dumps({**refusal, "remedy": error.remedy}, default=str).encode())
        return
    except (MissingDependencyError, MemoryError) as error:
        connection.send_bytes(json.dumps({"failed": said(error)}).encode())
        return
    connection.send_bytes(b"{}")
    with suppress(EOFError, OSError):
        while True:
            message = connection.recv_bytes()
            with _ending_with(fd):
                scored = _score(judgement, message, order["timeout_s"])
            connection.send_bytes(json.dumps(scored).encode())


def _score(judgement: Judgement, message: bytes, timeout_s: float) -> dict[str, Any]:
    pid = os.getpid()
    body = json.loads(message)
    prompt = Message(role="user", content=body.pop("prompt"))
    signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
    try:
        scored = judgement(Scoring(**body, messages=(prompt,)))
    except BaseException as error:  # noqa: BLE001  # a user's code may raise anything
        scored = Scored(error=said(error))
    if os.getpid() != pid:  # a child that the function forked has come back from it
        os._exit(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"reward": scored.reward, "error": scored.error, "answer": scored.answer}


@contextmanager
def _ending_with(fd: int) -> Iterator[None]:
    """Let the system end this process when the one that asked ends, even in the midst of scoring.

    Nothing is sent while a response is scored, so the only news that a signal can bring is that the
    other end is closed; and what it does, unless it is handled, is to end the process. (Elsewhere
    than on Linux it is ignored, and the process ends at the deadline.)
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        with suppress(OSError):  # a function may have closed it
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _limit_memory(limit: dict[str, int]) -> None:
    """Let allocations fail before the machine has no memory left; where it knows such limits."""
    try:
        import resource
    except ImportError:  # no POSIX
        return
    for name, size in limit.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            with suppress(OSError, ValueError):
                _, most = resource.getrlimit(kind)
                allowed = size if most == resource.RLIM_INFINITY else min(size, most)
                resource.setrlimit(kind, (allowed, most))
