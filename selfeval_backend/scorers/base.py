"""What a scorer takes, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from selfeval_backend.chat import Message

__all__ = ["Scored", "Scorer", "Scoring", "reward_of", "said"]

_LONGEST_REASON = 300
"""Characters of an error's text that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A response, and what it answers."""

    response: str
    answer: str | None = None
    """The reference answer."""
    messages: tuple[Message, ...] = ()
    """The conversation that the response ends."""
    row: Mapping[str, Any] | None = None
    """The prompt's row as it stands in its file, where it is from one of `aic eval`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A reward, or why there is none."""

    reward: float | None = None
    """Finite; high is good."""
    error: str | None = None
    answer: str | None = None
    """The response's answer, as the same text for the same answer; None: nothing to compare."""


class Scorer(Protocol):
    """Gives rewards to batches of responses; several threads may call it at once."""

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response, in order; a failure is an error of its response."""
        ...

    def close(self) -> None:
        """End what was started; what is being scored ends with an error."""
        ...


def reward_of(value: object, *, answer: str | None = None) -> Scored:
    """Return what a scorer returned as a reward; an error where it is no finite number."""
    if value is None or isinstance(value, str | bytes):
        shown = None if value is None else value[:40]
        return Scored(error=f"the reward is {shown!r}, expected a finite number")
    reward = float(value)  # type: ignore[arg-type]  # what it does not take, it refuses
    if reward - reward != 0.0:  # not finite
        return Scored(error=f"the reward is {reward}, expected a finite number")
    return Scored(reward=reward, answer=answer)


def said(error: BaseException) -> str:
    """Return an error as one line, whatever it does when it is asked."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())[:_LONGEST_REASON]
    except BaseException:  # noqa: BLE001  # a user's class
        text = ""
    return f"{name}: {text}" if text else name
