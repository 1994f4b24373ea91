"""Rewards to wins, ties and losses, and examples of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.samples.rewards import compare, win_or_tie_targets
from selfeval_backend.training.preferences import Candidate, contrast_pairs, make_examples
from selfeval_backend.training.recipe import PreferenceSettings


def candidates(*rewards: float, length: int = 20) -> list[Candidate]:
    return [Candidate(index=i, reward=r, num_tokens=length) for i, r in enumerate(rewards)]


def settings(**given: Any) -> PreferenceSettings:
    return PreferenceSettings.model_validate({"tie_threshold": 0.0, **given})


def test_targets_worked_by_hand() -> None:
    # One right of three: it wins twice; a wrong one loses to it and ties with the other.
    assert win_or_tie_targets([1.0, 0.0, 0.0]) == [1.0, 0.5, 0.5]
    # All equal: all tie, even if all are wrong. Starting over would not help.
    assert win_or_tie_targets([0.0, 0.0]) == [1.0, 1.0]


def test_a_tie_threshold_makes_near_rewards_tie() -> None:
    assert win_or_tie_targets([0.50, 0.505]) == [0.0, 1.0]
    assert win_or_tie_targets([0.50, 0.505], tie_threshold=0.01) == [1.0, 1.0]


def test_one_sample_is_no_preference() -> None:
    with pytest.raises(ValueError, match="two samples"):
        win_or_tie_targets([1.0])
    assert make_examples(candidates(1.0), settings(), random.Random(0)) == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 0.5))
def test_the_best_always_wins_or_ties_and_better_is_never_lower(
    rewards: list[float], tie_threshold: float
) -> None:
    targets = win_or_tie_targets(rewards, tie_threshold=tie_threshold)
    assert targets[rewards.index(max(rewards))] == 1.0
    ordered = [t for _, t in sorted(zip(rewards, targets, strict=True))]
    assert ordered == sorted(ordered)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_a_win_is_the_others_loss(mine: float, other: float, threshold: float) -> None:
    opposite = {"win": "loss", "loss": "win", "tie": "tie"}
    there = compare(mine, other, tie_threshold=threshold)
    back = compare(other, mine, tie_threshold=threshold)
    # Where the difference is the threshold itself, rounding may see a tie from one side only.
    assert back == opposite[there] or abs(abs(mine - other) - threshold) < 1e-9


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.floats(0, 0.5),
    st.integers(0, 2**32),
)
def test_soft_labels_of_all_pairs_are_the_shares_of_the_others(
    rewards: list[float], tie_threshold: float, seed: int
) -> None:
    chosen = settings(tie_threshold=tie_threshold)
    examples = make_examples(candidates(*rewards), chosen, random.Random(seed))
    expected = win_or_tie_targets(rewards, tie_threshold=tie_threshold)
    assert [e.target for e in examples] == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32))
def test_cuts_ascend_within_the_response_and_the_whole_comes_last(
    length: int, num_cuts: int, seed: int
) -> None:
    made = make_examples(
        candidates(1.0, 0.0, length=length), settings(num_cuts=num_cuts), random.Random(seed)
    )
    for example in made:
        assert list(example.cuts) == sorted(set(example.cuts))
        assert example.cuts[0] >= 1 and example.cuts[-1] == length
        assert len(example.cuts) == min(num_cuts, length)


def test_hard_labels_are_those_of_single_pairs() -> None:
    found = [
        target
        for seed in range(200)
        for target in make_examples(
            candidates(1.0, 0.0, 0.0), settings(labels="hard"), random.Random(seed)
        )[1].targets
    ]
    assert set(found) == {0.0, 1.0}
    assert sum(found) / len(found) == pytest.approx(0.5, abs=0.06)


def test_fewer_pairs_label_fewer_samples() -> None:
    one = make_examples(candidates(1, 0, 0, 0), settings(pairs=1), random.Random(0))
    assert len(one) == 2
    each = make_examples(candidates(1, 0, 0, 0), settings(pairs="random"), random.Random(0))
    assert [len(e.outcomes) for e in each] == [1, 1, 1, 1]


def test_prompts_without_a_difference_can_be_left_out() -> None:
    chosen = settings(mixed_only=True, tie_threshold=0.1)
    assert make_examples(candidates(0.5, 0.55), chosen, random.Random(0)) == []
    assert len(make_examples(candidates(0.5, 0.7), chosen, random.Random(0))) == 2


def test_pairs_that_tie_can_be_left_out() -> None:
    chosen = settings(ties="drop", tie_threshold=0.1)
    found = make_examples(candidates(1, 0, 0.05, 1), chosen, random.Random(0))
    assert [e.outcomes for e in found] == [("win",) * 2, ("loss",) * 2, ("loss",) * 2, ("win",) * 2]
    assert make_examples(candidates(0.5, 0.55), chosen, random.Random(0)) == []


def test_whole_responses_alone_or_cuts_alone() -> None:
    whole = make_examples(candidates(1, 0), settings(cut_at_random=False), random.Random(0))
    assert [e.cuts for e in whole] == [(20,), (20,)]
    cut = make_examples(candidates(1, 0), settings(whole_share=0.0), random.Random(0))
    assert all(e.cuts[-1] < 20 and len(e.cuts) == 4 for e in cut)


def test_contrast_pairs_a_best_and_a_worse_one_of_mixed_prompts_only() -> None:
    assert contrast_pairs(candidates(1.0, 1.0), settings(), random.Random(0)) == []
    assert contrast_pairs([], settings(), random.Random(0)) == []
    pairs = contrast_pairs(candidates(0.2, 1.0, 0.9), settings(), random.Random(0))
    assert len(pairs) == 4
    assert {better.index for better, _ in pairs} == {1}
    assert {worse.index for _, worse in pairs} <= {0, 2}
    assert {(b.target, w.target) for b, w in pairs} == {(1.0, 0.0)}
