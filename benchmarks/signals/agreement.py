"""How much samples of one prompt say the same."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np

from benchmarks.signals.records import Array, Prompt

__all__ = ["overlap", "similarity"]

_WORD = re.compile(r"\w+")


@cache  # a prompt is looked at by many signals
def similarity(prompt: Prompt) -> Array:
    """Return how alike two samples are, from 0 to 1, [K, K].

    Where answers compare, 1 for the same answer; a sample without one is like none, itself
    included. Where no sample has an answer, the overlap of words.
    """
    answers = [sample.final_answer for sample in prompt.samples]
    if not any(answers):
        return overlap(prompt, 1)
    return np.array([[float(a is not None and a == b) for b in answers] for a in answers])


@cache
def overlap(prompt: Prompt, n: int) -> Array:
    """Return the F1 of the n-grams of words that two responses share, [K, K]; case is ignored.

    Source: ROUGE-N, Lin 2004, with n-grams counted as often as both have them.
    """
    bags = [_ngrams(sample.response, n) for sample in prompt.samples]
    known = sorted(set().union(*bags))
    counts = np.array([[bag[gram] for gram in known] for bag in bags], np.float64)  # [K, grams]
    shared = np.minimum(counts[:, None], counts).sum(-1)
    total = counts.sum(-1)
    alike: Array = 2 * shared / np.maximum(total[:, None] + total, 1)
    return alike


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return Counter(zip(*(words[k:] for k in range(n)), strict=False))
