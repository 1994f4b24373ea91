"""The second half of ``aic demo``: a real chat model, and instructions that can be checked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selfeval_backend.cli.progress import live_progress
from selfeval_backend.controller import derive_seed

if TYPE_CHECKING:
    from selfeval_backend.model import Answer, SelfEvaluatingModel
    from selfeval_backend.samples.tasks import TaskItem

__all__ = ["Answered", "converse"]

_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One instruction, and its answer in two ways."""

    item: TaskItem
    one: Answer
    """A single sample at the model's temperature, as a plain server gives it."""
    adaptive: Answer
    """As this project gives it, by the model's own settings."""

    def right(self, answer: Answer) -> bool:
        """Tell whether an answer keeps to all that was asked for."""
        return self.item.reward(answer.text) == 1.0


async def converse(
    model: SelfEvaluatingModel, items: Sequence[TaskItem], *, seed: int
) -> tuple[Answered, ...]:
    """Answer all instructions together, each with one sample and adaptively.

    Raises:
        EngineError: The engine failed.
    """
    with live_progress() as progress:
        num_done = 0

        async def answered(place: int, item: TaskItem) -> Answered:
            nonlocal num_done
            found = await _answered(model, item, derive_seed(seed, place))
            num_done += 1
            progress("instructions", num_done, len(items))
            return found

        return tuple(await asyncio.gather(*map(answered, range(len(items)), items)))


async def _answered(model: SelfEvaluatingModel, item: TaskItem, seed: int) -> Answered:
    adaptive = model.settings({"max_tokens": _MAX_TOKENS, "seed": seed})
    alone = replace(adaptive.unpruned(), max_samples=1, annealing="constant")
    policy = replace(alone.policy(), evaluate=False)
    one = await model.answer(item.messages, alone, policy=policy)
    return Answered(item=item, one=one, adaptive=await model.answer(item.messages, adaptive))
