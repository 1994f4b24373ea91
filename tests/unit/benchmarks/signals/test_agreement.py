"""How much samples of one prompt say the same."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.signals.agreement import overlap, similarity
from tests.unit.benchmarks.signals.drawn import prompt, sample


def test_the_same_answer_is_alike_whatever_the_words() -> None:
    drawn = prompt(sample("so 4", answer="4"), sample("so 5", answer="5"), sample(answer="4"))
    assert similarity(drawn).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_a_sample_without_an_answer_is_like_none() -> None:
    drawn = prompt(sample("same"), sample("same"), sample("same", answer="4"))
    assert similarity(drawn).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_where_nothing_compares_words_do() -> None:
    drawn = prompt(sample("a b c"), sample("A, b: d!"), sample("e"))
    # Two of three words each: 2 * 2 / (3 + 3).
    assert similarity(drawn) == pytest.approx(np.array([[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]]))


def test_word_pairs_keep_to_order() -> None:
    drawn = prompt(sample("a b c"), sample("a b d"), sample("c b a"))
    # "a b" of two pairs each; none in the reverse.
    assert overlap(drawn, 2) == pytest.approx(np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]))


def test_a_word_counts_as_often_as_both_have_it() -> None:
    drawn = prompt(sample("a a"), sample("a"))
    assert overlap(drawn, 1)[0, 1] == pytest.approx(2 / 3)


def test_no_words_are_like_no_words_least_of_all_themselves() -> None:
    assert overlap(prompt(sample(""), sample("a")), 1).tolist() == [[0, 0], [0, 1]]
