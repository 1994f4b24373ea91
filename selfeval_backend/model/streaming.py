"""An answer in pieces, before it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from selfeval_backend.chat import AnswerForm, ReasoningForm, StopStrings, TextFlow
from selfeval_backend.errors import StreamBrokenError
from selfeval_backend.model.answer import Answer, ReasoningPiece
from selfeval_backend.types import Sample

__all__ = ["AnswerFlow"]


class AnswerFlow:
    """An answer in pieces, before it is whole: its text, and its reasoning where a form has one."""

    def __init__(
        self,
        decode: Callable[..., str],
        stop_strings: StopStrings | None,
        form: AnswerForm | None,
    ) -> None:
        settled = None if form is None else form.settled
        if form is not None and form.keeps_special_tokens:
            decode = partial(decode, keep_special_tokens=True)
        self._text = TextFlow(decode, stop_strings, settled=settled)
        self._reasoning = (
            TextFlow(decode, stop_strings, settled=form.settled_reasoning)
            if isinstance(form, ReasoningForm)
            else None
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
