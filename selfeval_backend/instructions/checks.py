"""Constraints on a response, and the checks of them: pure functions of its text.

A check takes the response, the words that the constraint names and its number, and says whether it
is kept. They follow IFEval's where it has one. An empty response keeps to nothing.

Source: Zhou et al. 2023, arXiv 2311.07911, table 4. Departures: words are whole words, whatever
their case, where IFEval also takes parts of words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CHECKS", "Check", "Constraint", "plain_words"]

Check = Callable[[str, Sequence[str], int], bool]
"""Of (response, words, number)."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_BULLET = re.compile(r"^\s*(?:\*(?!\*)|•|-(?!-))\s*\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)
_TITLE = re.compile(r"<<[^<>\n]+>>")
_HIGHLIGHT = re.compile(r"\*{1,2}[^\s*](?:[^*\n]*[^\s*])?\*{1,2}")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
_POSTSCRIPT = re.compile(r"^\W*P\.\s?S\.[:,]?\s*\S", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6} +\S", re.MULTILINE)
_QUOTED = re.compile(r"[\"“][^\"“”\n]+[\"”]")
_SENTENCE_END = re.compile(r"[.!?]+[\"”')*]*(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|etc|e\.g|i\.e|P\.S|vs)\.|^\s*\d+\.", re.MULTILINE)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)


def plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def _occurrences(response: str, phrase: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", response, re.IGNORECASE))


def _keywords(response: str, words: Sequence[str], _: int) -> bool:
    return all(_occurrences(response, word) for word in words)


def _forbidden(response: str, words: Sequence[str], _: int) -> bool:
    return bool(response.strip()) and not any(_occurrences(response, word) for word in words)


def _repeated(response: str, words: Sequence[str], number: int) -> bool:
    return all(_occurrences(response, word) >= number for word in words)


def _letter(response: str, words: Sequence[str], number: int) -> bool:
    return all(response.lower().count(letter) >= number for letter in words)


def _without_letter(response: str, words: Sequence[str], _: int) -> bool:
    return bool(response.strip()) and not any(letter in response.lower() for letter in words)


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda response, _, number: len(pattern.findall(response)) >= number


def _bullets(response: str, _: Sequence[str], number: int) -> bool:
    return len(_BULLET.findall(response)) == number


def _numbered(response: str, _: Sequence[str], number: int) -> bool:
    return _NUMBERED.findall(response) == [str(n + 1) for n in range(number)]


def _no_comma(response: str, _: Sequence[str], __: int) -> bool:
    return bool(response.strip()) and "," not in response


def _no_digit(response: str, _: Sequence[str], __: int) -> bool:
    return bool(response.strip()) and not any(map(str.isdigit, response))


def _at_most_words(response: str, _: Sequence[str], number: int) -> bool:
    return 0 < len(response.split()) <= number


def _at_least_words(response: str, _: Sequence[str], number: int) -> bool:
    return len(response.split()) >= number


def _num_sentences(response: str) -> int:
    text = _ABBREVIATION.sub("", response).strip()
    ends = len(_SENTENCE_END.findall(text))
    return ends if not text or text[-1] in ".!?\"”')*" else ends + 1


def _sentences(response: str, _: Sequence[str], number: int) -> bool:
    return _num_sentences(response) == number


def _paragraphs(response: str, _: Sequence[str], number: int) -> bool:
    return len([p for p in re.split(r"\n\s*\n", response) if p.strip()]) == number


def _begins(response: str, words: Sequence[str], _: int) -> bool:
    start = response.lstrip(" \n\"“'*").lower()
    return any(re.match(rf"{re.escape(word.lower())}(?!\w)", start) for word in words)


def _json(response: str, words: Sequence[str], _: int) -> bool:
    text = response.strip()
    fenced = _FENCE.match(text)
    try:
        body = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and sorted(body) == sorted(words)


def _copied(response: str, words: Sequence[str], _: int) -> bool:
    return response.strip(" \n\"“”'") == words[0]


def _answer(response: str, words: Sequence[str], number: int) -> bool:
    right, *wrong = words
    return (
        len(response.split()) <= number
        and bool(_occurrences(response, right))
        and not any(_occurrences(response, other) for other in wrong)
    )


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "answer": _answer,
        "begins": _begins,
        "bullets": _bullets,
        "copied": _copied,
        "forbidden": _forbidden,
        "headings": _matches(_HEADING),
        "highlights": _matches(_HIGHLIGHT),
        "json": _json,
        "keywords": _keywords,
        "letter": _letter,
        "at_least_words": _at_least_words,
        "at_most_words": _at_most_words,
        "no_comma": _no_comma,
        "no_digit": _no_digit,
        "numbered": _numbered,
        "paragraphs": _paragraphs,
        "placeholders": _matches(_PLACEHOLDER),
        "postscript": _matches(_POSTSCRIPT),
        "quotation": _matches(_QUOTED),
        "repeated": _repeated,
        "sentences": _sentences,
        "title": _matches(_TITLE),
        "without_letter": _without_letter,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Something that a response either keeps to or does not."""

    check: str
    """A name of `CHECKS`."""
    words: tuple[str, ...] = ()
    number: int = 1

    def is_kept(self, response: str) -> bool:
        """Say whether a response keeps to it."""
        return CHECKS[self.check](response, self.words, self.number)
