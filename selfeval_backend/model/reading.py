"""From a sample's tokens to its text, and to what was asked for in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from selfeval_backend.chat import AnswerForm, Chat, Parsed, StopStrings, TextFlow

__all__ = ["SampleReader", "is_blank"]


class SampleReader:
    """Reads the samples of one call, and parses each of them once.

    Args:
        chat: Of the model.
        stop: Strings that end a sample.
        form: What its answer must be; None: text.
    """

    def __init__(
        self, chat: Chat, stop: Sequence[str] = (), form: AnswerForm | None = None
    ) -> None:
        self.form = form
        self.stop_strings = StopStrings(stop, decode=chat.decode) if stop else None
        """None: there are none."""
        self._decode = chat.decode
        self._parsed: dict[tuple[int, ...], Parsed] = {}

    def text(self, token_ids: tuple[int, ...]) -> str:
        """Return the text of a sample: without stop strings, and without space around it."""
        return self._cut(self._decode(token_ids))

    def parsed(self, token_ids: tuple[int, ...]) -> Parsed | None:
        """Return what was found in a sample; None where no form was asked for."""
        if self.form is None:
            return None
        if token_ids not in self._parsed:
            text = self._cut(self._decode_for(self.form)(token_ids))
            self._parsed[token_ids] = self.form.parse(text)
        return self._parsed[token_ids]

    def valid(self, token_ids: tuple[int, ...]) -> bool | None:
        """Tell whether a sample is of the form that was asked for; one without text is of none."""
        if is_blank(self.text(token_ids)):
            return False
        parsed = self.parsed(token_ids)
        return None if parsed is None else parsed.valid

    def flow(self, settled: Callable[[str], str] | None = None) -> TextFlow:
        """Return the text of one sample as it grows; see `TextFlow`."""
        return TextFlow(self._decode_for(self.form), self.stop_strings, settled=settled)

    def _decode_for(self, form: AnswerForm | None) -> Callable[[Sequence[int]], str]:
        keeps = form is not None and form.keeps_special_tokens
        return partial(self._decode, keep_special_tokens=True) if keeps else self._decode

    def _cut(self, text: str) -> str:
        return (text if self.stop_strings is None else self.stop_strings.cut(text)).strip()


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: white space, control characters, or none at all."""
    return not any(letter.isprintable() and not letter.isspace() for letter in text)
