"""A policy is chosen on one half, reported on the other, and not promised beyond what they show."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.tuning import (
    Annealing,
    Goal,
    GoalKind,
    choose_policy,
    find_policy,
    policy_of,
    split_halves,
)
from selfeval_backend.samples.records import Recording, SampleRecord
from selfeval_backend.settings import Settings, resolve_settings
from tests.unit.samples.recorded import ANNEALED, NUM_SAMPLES, info, recording, sample


def knowing(
    num_prompts: int, *, share_right: float = 0.4, noise: float = 0.0, annealed: bool = False
) -> Recording:
    """Samples that are right now and then, and know it at the end and (less so) at four tokens."""
    rng = random.Random(0)

    def one(index: int, temperature: float) -> SampleRecord:
        right = rng.random() < share_right
        said = right if rng.random() >= noise else not right
        return sample(
            index,
            [0.5, 0.5, 0.5, 0.7 if said else 0.3, 0.5, 0.9 if said else 0.1],
            temperature=temperature,
            reward=float(right),
            answer="right" if right else f"wrong {rng.randrange(3)}",
        )

    made = recording(
        *(
            [
                one(index, temperature)
                for index in range(NUM_SAMPLES)
                for temperature in {1.0, *((ANNEALED.temperature(index),) if annealed else ())}
            ]
            for _ in range(num_prompts)
        )
    )
    return Recording(info=info(annealed=annealed, checkpoints=(4,)), prompts=made.prompts)


@pytest.mark.slow
def test_the_cheapest_policy_that_keeps_enough() -> None:
    choice = choose_policy(
        knowing(100, annealed=True), Goal(kind="keep_quality", value=0.9), seed=0
    )

    assert choice.shown
    assert choice.reached == choice.reported.improvement_kept
    assert choice.reached.low >= 0.9
    assert choice.settings.adaptive
    assert choice.reported.tokens_saved.value > 0.4
    assert (choice.num_chosen_on, choice.num_reported_on) == (50, 50)
    assert choice.num_candidates > 100
    assert choice.num_prompts_needed is None


@pytest.mark.parametrize(
    ("kind", "budget"), [("max_tokens_per_prompt", 18.0), ("max_samples_mean", 2.0)]
)
def test_the_best_policy_that_is_not_too_dear(kind: GoalKind, budget: float) -> None:
    made = knowing(60, share_right=0.25)
    cheap = choose_policy(made, Goal(kind=kind, value=budget), seed=0)
    dear = choose_policy(made, Goal(kind=kind, value=2 * budget), seed=0)

    assert cheap.reached.value == pytest.approx(budget, rel=0.3)
    assert cheap.reported.quality.value < dear.reported.quality.value
    assert cheap.reported.tokens < dear.reported.tokens


def test_what_the_prompts_do_not_show_is_not_promised() -> None:
    choice = choose_policy(knowing(44), Goal(kind="max_samples_mean", value=2.4), seed=0)

    # The mean of twenty-two prompts is met on one half; on the other it may as well be passed.
    assert not choice.shown
    assert choice.reached.low < 2.4 < choice.reached.high
    if choice.reached.value < 2.4:
        assert choice.num_prompts_needed is not None
        assert choice.num_prompts_needed > 44


def test_halves_share_no_prompt_and_are_repeatable() -> None:
    whole = knowing(41)
    first, second = split_halves(whole, seed=3)

    names = [{p.prompt_id for p in half.prompts} for half in (first, second)]
    assert names[0] | names[1] == {p.prompt_id for p in whole.prompts}
    assert not names[0] & names[1]
    assert split_halves(whole, seed=3) == (first, second)
    assert split_halves(whole, seed=4) != (first, second)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(DatasetError, match="has 39 prompts, tuning needs at least 40"):
        choose_policy(knowing(39), Goal(kind="keep_quality", value=0.9), seed=0)


def test_a_goal_that_no_policy_meets_is_refused() -> None:
    for goal, message in (
        (Goal(kind="keep_quality", value=5.0), "no policy keeps 500%"),
        (Goal(kind="max_tokens_per_prompt", value=2.0), "no policy costs 2 or less"),
    ):
        with pytest.raises(DatasetError, match=message):
            choose_policy(knowing(40), goal, seed=0)


def test_a_model_that_cannot_tell_is_refused() -> None:
    blind = knowing(40, noise=1.0)
    with pytest.raises(DatasetError, match="no better than one sample"):
        choose_policy(blind, Goal(kind="keep_quality", value=0.9), seed=0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_goal_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="keep_quality"):
        Goal(kind="keep_quality", value=value)


def test_a_policy_means_the_same_once_it_is_read_again() -> None:
    for settings in (
        Settings(),
        Settings(threshold=0.8, prune_at=(8, 16), keep_fraction=(0.5, 0.25), batches=(1, 4)),
        Settings(adaptive=False, prune_at=(8,), keep_fraction=1.0, prune_below=0.3),
    ):
        assert resolve_settings({}, policy_of(settings)) == settings


DRAWN = {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}


def test_a_policy_is_for_samples_drawn_as_those_it_was_tuned_on() -> None:
    drawn = knowing(40)
    drawn = replace(drawn, info=drawn.info.model_copy(update=DRAWN))
    choice = choose_policy(drawn, Goal(kind="max_samples_mean", value=3.0), seed=0)
    policy = policy_of(choice.settings)
    assert {name: policy[name] for name in DRAWN} == DRAWN
    # So it holds whatever the model's makers say.
    makers = {"temperature": 0.2, "top_p": 0.5, "top_k": 3}
    assert resolve_settings({}, policy, makers) == choice.settings
    plain = policy_of(Settings())
    assert resolve_settings({}, plain, makers) == Settings()


def test_recordings_without_annealing_are_tuned_at_one_temperature() -> None:
    constant = Recording(info=info(annealed=False, checkpoints=()), prompts=knowing(40).prompts)
    choice = choose_policy(constant, Goal(kind="max_samples_mean", value=3.0), seed=0)
    assert choice.settings.annealing == "constant"
    assert choice.settings.prune_at == ()


@pytest.mark.parametrize("kind", ["annealed", "constant"])
def test_adaptive_sampling_is_tuned_among_what_is_asked_for(kind: Annealing) -> None:
    drawn = knowing(40, annealed=True)
    goal = Goal(kind="keep_quality", value=0.5)
    found = find_policy(drawn, goal, seed=0, prune_at=(), annealing=(kind,))
    assert found.settings.adaptive
    assert found.settings.annealing == kind


def test_to_ask_for_annealing_that_was_not_recorded_is_refused() -> None:
    goal = Goal(kind="keep_quality", value=0.9)
    with pytest.raises(ConfigurationError, match="annealing"):
        find_policy(knowing(20), goal, seed=0, annealing=("annealed",))
