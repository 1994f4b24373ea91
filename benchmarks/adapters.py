"""What benchmarks of adapters share: a model that answers at once, and the two taking turns."""

from __future__ import annotations

import asyncio
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from selfeval_backend.chat import Message
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.model import SelfEvaluatingModel, UncalibratedWarning
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.sync import run_sync

__all__ = ["CALLS_IN_TURN", "NUM_TURNS", "PROMPT", "Call", "overhead_ms"]

PROMPT = "Use 3, 19 and 25 to make 41."
NUM_TURNS = 40
"""Of the adapter and the bare model, in one repetition."""
CALLS_IN_TURN = 5
_SETTINGS = {"max_samples": 2, "seed": 0}

Call = Callable[[], Awaitable[Any]]


async def overhead_ms(
    adapter: Callable[[SelfEvaluatingModel, dict[str, Any]], Call], *, synchronous: bool
) -> float:
    """Return by how many milliseconds a call takes longer through an adapter: the median.

    Args:
        adapter: Returns the call of the adapter of a model, with these settings, that asks
            `PROMPT`.
        synchronous: The call blocks a thread; so does the bare model's then.
    """
    conversation = [Message(role="user", content=PROMPT)]
    found = []
    for _ in range(NUM_TURNS):
        # A scripted engine remembers its calls, and gets slower by it: each turn has its own.
        model, other = _scripted_model(), _scripted_model()
        settings = model.settings(_SETTINGS)

        async def bare(model: SelfEvaluatingModel = model, settings: Any = settings) -> None:
            answer = model.answer(conversation, settings)
            await (asyncio.to_thread(run_sync, answer) if synchronous else answer)

        adapted = adapter(other, dict(_SETTINGS))
        before = await _mean_ms(bare)
        found.append(await _mean_ms(adapted) - before)
    return statistics.median(found)


def _scripted_model() -> SelfEvaluatingModel:
    """Return a model whose samples are there at once; the second one is trusted."""
    chat = ScriptedChat()
    script = [chat.response("41 = 19 + 25 - 4", 0.2), chat.response("41 = 19 + 25 - 3", 0.95)]
    engine = ScriptedEngine(script, repeat=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        return SelfEvaluatingModel(
            name="scripted", engine=engine, chat=chat, config=SelfEvalConfig()
        )


async def _mean_ms(call: Call) -> float:
    began = time.perf_counter()
    for _ in range(CALLS_IN_TURN):
        await call()
    return (time.perf_counter() - began) / CALLS_IN_TURN * 1000
