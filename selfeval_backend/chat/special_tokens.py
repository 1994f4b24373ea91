"""A tokenizer's special tokens: which words of a form are such, and texts without them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from selfeval_backend.chat.template import Chat, ChatTemplate

__all__ = ["SpecialTokens"]


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Tokens that decoding leaves out if it is not told otherwise."""

    words: frozenset[str] = frozenset()
    """None: everything that a response holds is text."""

    @classmethod
    def of(cls, chat: Chat) -> SpecialTokens:
        """Return those of a model's tokenizer."""
        if not isinstance(chat, ChatTemplate):
            return cls()
        added = chat.tokenizer.added_tokens_decoder.values()
        named = frozenset(map(str, chat.tokenizer.all_special_tokens))
        return cls(words=named | {str(token) for token in added if token.special})

    def holds_any(self, words: Collection[str]) -> bool:
        """Tell whether one of these words is a special token, or holds one."""
        return any(token in word for token in self.words for word in words)

    def left_out(self, text: str) -> str:
        """Return a text without special tokens, as decoding would have given it."""
        if not self.words or self._pattern.search(text) is None:
            return text
        return self._pattern.sub("", text).strip()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.words, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))
