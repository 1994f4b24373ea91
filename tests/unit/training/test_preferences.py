"""Rewards to win-or-tie targets, and batches of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.reference.problems import Problem, Puzzle
from selfeval_backend.rollouts import Rollout, RolloutSample, win_or_tie_targets
from selfeval_backend.training.preferences import ContrastBatches, PreferenceBatches


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


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 0.5))
def test_the_best_always_wins_or_ties_and_better_is_never_lower(
    rewards: list[float], tie_threshold: float
) -> None:
    targets = win_or_tie_targets(rewards, tie_threshold=tie_threshold)
    assert targets[rewards.index(max(rewards))] == 1.0
    ordered = [t for _, t in sorted(zip(rewards, targets, strict=True))]
    assert ordered == sorted(ordered)


def rollout(*rewards: float) -> Rollout:
    return Rollout(
        problem=Problem(puzzles=(Puzzle(numbers=(1, 2), target=3),), text="Use 1 and 2 to make 3."),
        prompt_ids=(1, 2, 3),
        samples=tuple(
            RolloutSample(
                token_ids=tuple(range(10, 20 + i)),
                finish_reason="stop",
                temperature=1.0,
                reward=reward,
                sum_logprob=-1.0,
            )
            for i, reward in enumerate(rewards)
        ),
    )


SHAPE = {"question_ids": (5, 6), "end_id": 9, "pad_id": 0, "num_cuts": 3, "seed": 0}


def test_preference_batches_ask_whole_and_cut_with_the_samples_target() -> None:
    batches = PreferenceBatches(rollouts=[rollout(1.0, 0.0, 0.0)], batch_size=3, **SHAPE)
    batch = next(iter(batches))
    assert sorted(batch.targets.mean(dim=1).tolist()) == [0.5, 0.5, 1.0]
    assert batch.num_branches == 3
    assert batch.next_ids.max() == 21  # the longest response was trained on to its end


def test_contrast_batches_pair_a_right_and_a_wrong_sample_of_mixed_prompts_only() -> None:
    batches = ContrastBatches(
        rollouts=[rollout(1.0, 1.0), rollout(0.0, 1.0)], batch_size=2, **SHAPE
    )
    batch = next(iter(batches))
    assert batch.targets[:, 0].tolist() == [1.0, 0.0]
