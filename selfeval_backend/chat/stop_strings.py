"""Stop strings: where a sample ends by its text, whatever tokens it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["StopStrings"]

_SLACK_TOKENS = 8
"""Tokens in front of the window: some give no text, and decoders treat a first token apart."""


class StopStrings:
    """Finds stop strings in samples, and cuts them off texts.

    Args:
        strings: At least one, none of them empty.
        decode: Token ids to text.
    """

    def __init__(self, strings: Sequence[str], *, decode: Callable[[Sequence[int]], str]) -> None:
        self._strings = tuple(strings)
        self._decode = decode
        # A token that gives text gives at least one byte.
        self._longest = max(len(string.encode()) for string in self._strings)

    def find_end(self, token_ids: Sequence[int], *, num_new: int) -> int | None:
        """Return how many tokens there are up to the one that completes a stop string.

        Args:
            token_ids: The sample so far.
            num_new: Of its last tokens, those that were not looked at before.

        Returns:
            The least number that will do; None if the text has no stop string.
        """
        # Only the text around the new tokens, or a long sample would be decoded ever again.
        start = max(0, len(token_ids) - num_new - self._longest - _SLACK_TOKENS)
        if not num_new or not self._within(token_ids[start:]):
            return None
        ends = range(len(token_ids) - num_new + 1, len(token_ids) + 1)
        return next((end for end in ends if self._within(token_ids[start:end])), None)

    def _within(self, token_ids: Sequence[int]) -> bool:
        text = self._decode(token_ids)
        return any(string in text for string in self._strings)

    def settled(self, text: str) -> str:
        """Return the final part of a growing text, without what may become a stop string."""
        kept = self.cut(text)
        if len(kept) < len(text):
            return kept
        starts = (s[:size] for s in self._strings for size in range(1, len(s)))
        held_back = max((len(start) for start in starts if text.endswith(start)), default=0)
        return text[: len(text) - held_back]

    def cut(self, text: str) -> str:
        """Return the text in front of the first stop string in it."""
        found = [place for string in self._strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text
