"""From tokens as they come to text that can be shown: what was shown is never taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfeval_backend.chat.stop_strings import StopStrings

__all__ = ["TextFlow"]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoders give for a character that lacks some of its bytes."""


class TextFlow:
    """The text of one growing response, in pieces.

    Held back is what may still change: the bytes of a character that is not whole, the beginning of
    a stop string, and white space at the end, which an answer does not have. The pieces together
    are the text of the whole response, as `SelfEvaluatingModel.text` has it.

    Args:
        decode: Token ids to text.
        stop_strings: Never shown; None: there are none.
        settled: Of a text so far, what may be shown of it; None: all.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop_strings: StopStrings | None = None,
        *,
        settled: Callable[[str], str] | None = None,
    ) -> None:
        self._decode = decode
        self._stop_strings = stop_strings
        self._settled = settled
        self.shown = ""
        """All pieces so far."""
        # Only a window of the last tokens is decoded, or a long response would be decoded ever
        # again. It begins some tokens before the new ones, as decoders treat a first token apart.
        self._window_start = 0
        self._num_read = 0
        self._read = ""
        self._text_in_window = ""

    def grow(self, token_ids: Sequence[int]) -> str:
        """Return the piece that can be shown now; often empty.

        Args:
            token_ids: The response so far: what was given before, and more.
        """
        text = self._text(token_ids).rstrip(_UNFINISHED)
        if self._stop_strings is not None:
            text = self._stop_strings.settled(text)
        if self._settled is not None:
            text = self._settled(text)
        text = text.strip()
        if len(text) <= len(self.shown) or not text.startswith(self.shown):
            return ""
        return self._show(text)

    def end(self, text: str) -> str:
        """Return the last piece, once the whole text is known.

        A response that was cut off within a character may be decoded in another way than it was
        before: then nothing more is shown.
        """
        return self._show(text) if text.startswith(self.shown) else ""

    def _show(self, text: str) -> str:
        piece = text[len(self.shown) :]
        self.shown = text
        return piece

    def _text(self, token_ids: Sequence[int]) -> str:
        in_window = self._decode(token_ids[self._window_start :])
        new = in_window[len(self._text_in_window) :]
        text = self._read + new
        if new.strip() and not new.endswith(_UNFINISHED):
            # What was new is the next window's beginning: it has text, so it takes the first place.
            self._read = text
            self._window_start, self._num_read = self._num_read, len(token_ids)
            self._text_in_window = self._decode(token_ids[self._window_start :])
        return text
