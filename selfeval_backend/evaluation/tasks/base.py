"""What a task is: prompts whose answers can be judged, and perhaps compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Task", "TaskItem", "no_answer"]


def no_answer(_: str) -> str | None:
    """Return None: responses to open-ended prompts cannot be put to a vote."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """One prompt and its verifier."""

    prompt: str
    reward: Callable[[str], float]
    """Of a response's text; high is good, and finite. It may block: it runs in a thread."""
    answer: Callable[[str], str | None] = no_answer
    """What a response comes to, the same text for the same answer; None: nothing to compare."""
    reference: str | None = None
    """What a response is judged against, where its length may sway the judge; else None."""
    prompt_id: str = ""
    """Its name within the task, the same in every run."""


class Task(Protocol):
    """Prompts with their verifiers."""

    @property
    def name(self) -> str:
        """What it is called in recordings and tables."""
        ...

    @property
    def items(self) -> Sequence[TaskItem]:
        """At least one; the same ones, in the same order, every time."""
        ...
