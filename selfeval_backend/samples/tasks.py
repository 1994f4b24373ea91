"""What a task is: prompts whose answers can be judged, and perhaps compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from selfeval_backend.chat import Message
from selfeval_backend.errors import ScorerError
from selfeval_backend.hashing import digest_of
from selfeval_backend.scorers import Scored, ScorerIdentity, reward_of, said

__all__ = ["Task", "TaskItem", "close_task", "no_answer"]


def no_answer(_: str) -> str | None:
    """Return None: responses to open-ended prompts cannot be put to a vote."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """One prompt and its verifier."""

    prompt: str | tuple[Message, ...]
    """What a user asks, or all messages."""
    reward: Callable[[str], float]
    """Of a response's text; high is good, and finite. It may block: it runs in a thread.

    Whatever it raises is an error of that response.
    """
    answer: Callable[[str], str | None] = no_answer
    """What a response comes to, the same text for the same answer; None: nothing to compare."""
    reference: str | None = None
    """What a response is judged against, where its length may sway the judge; else None."""
    prompt_id: str = ""
    """Its name within the task, the same in every run."""
    scorer: ScorerIdentity | None = None
    """What gives the rewards; None: not known, and then they are made anew in every run."""
    basis: str = ""
    """What rewards are made with beside the response: the reference answer, or the whole row."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What is asked."""
        if isinstance(self.prompt, str):
            return (Message(role="user", content=self.prompt),)
        return self.prompt

    @property
    def scored_by(self) -> str | None:
        """What a reward that is made otherwise is told by; None where that is not known."""
        return None if self.scorer is None else digest_of([self.scorer.digest, self.basis])

    def judge(self, response: str) -> Scored:
        """Return reward and answer of a response, or why there is none; blocks."""
        try:
            scored = reward_of(self.reward(response))
            return replace(scored, answer=self.answer(response))
        except ScorerError as error:
            return Scored(error=str(error))
        except Exception as error:  # noqa: BLE001  # a user's scorer may raise anything
            return Scored(error=said(error))


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


def close_task(task: Task) -> None:
    """End what a task's scorer has started; most have nothing to end."""
    close = getattr(task, "close", None)
    if close is not None:
        close()
