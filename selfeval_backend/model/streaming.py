"""An answer in pieces, before it is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from selfeval_backend.chat import ReasoningForm
from selfeval_backend.controller import Follower
from selfeval_backend.errors import StreamBrokenError
from selfeval_backend.model.answer import Answer, ReasoningPiece
from selfeval_backend.model.reading import SampleReader
from selfeval_backend.sync import contained
from selfeval_backend.types import Sample

__all__ = ["AnswerFlow", "in_pieces"]


async def in_pieces(
    answer: Callable[[Follower], Coroutine[Any, Any, Answer]], flow: AnswerFlow
) -> AsyncGenerator[str | Answer, None]:
    """Yield the pieces of an answer as soon as they are certain, then the answer.

    Leaving the generator cancels what answers, and waits for its end.

    Args:
        answer: Answers, and tells the follower of the sample that will be the answer.
        flow: Cuts it into pieces.

    Raises:
        StreamBrokenError: What was given is of another sample than the answer.
        AICError: What `answer` raises.
    """
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def follow(sample: Sample) -> None:
        for piece in flow.grow(sample):
            pieces.put_nowait(piece)

    running = asyncio.create_task(contained(partial(answer, follow)))
    running.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        for last in flow.end((await running).result()):
            yield last
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class AnswerFlow:
    """The text of the sample that will be the answer, and its reasoning where a form has one.

    Args:
        reader: Of the call's samples.
    """

    def __init__(self, reader: SampleReader) -> None:
        form = reader.form
        self._text = reader.flow(None if form is None else form.settled)
        self._reasoning = (
            reader.flow(form.settled_reasoning) if isinstance(form, ReasoningForm) else None
        )
        self._followed: int | None = None

    def grow(self, sample: Sample) -> Iterator[str]:
        """Yield what can be given of the sample that is followed, and was not given before."""
        self._followed = sample.index
        if self._reasoning and (thought := self._reasoning.grow(sample.token_ids)):
            yield ReasoningPiece(thought)
        if piece := self._text.grow(sample.token_ids):
            yield piece

    def end(self, answer: Answer) -> Iterator[str | Answer]:
        """Yield the last pieces, and the answer as it was given.

        That is as it is itself, but for a character that was cut off within its bytes.

        Raises:
            StreamBrokenError: What was given is of another sample.
        """
        given = self._text.shown or (self._reasoning and self._reasoning.shown)
        if given and self._followed != answer.outcome.best:
            raise _stream_broken(answer)
        parsed = answer.parsed
        if self._reasoning and parsed is not None:
            if thought := self._reasoning.end(parsed.reasoning or ""):
                yield ReasoningPiece(thought)
            parsed = replace(parsed, reasoning=self._reasoning.shown or None)
        if last := self._text.end(answer.text if parsed is None else parsed.text):
            yield last
        if parsed is None:
            yield replace(answer, text=self._text.shown)
        else:
            yield replace(answer, parsed=replace(parsed, text=self._text.shown))


def _stream_broken(answer: Answer) -> StreamBrokenError:
    outcome = answer.outcome
    reason = f"{outcome.stop_reason}: {outcome.trace.fault}" if outcome.trace.fault else None
    return StreamBrokenError(reason or outcome.stop_reason, answer=answer.text, trace=outcome.trace)
