"""What may be set, what is refused, and who is asked first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.errors import ConfigurationError, ModelFilesError
from selfeval_backend.policy import Annealed, BatchSchedule, Checkpoint, Constant, PerSample
from selfeval_backend.settings import (
    SAMPLING_NAMES,
    SETTING_NAMES,
    Settings,
    resolve_settings,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_samples", 0),
        ("max_samples", 1.5),
        ("max_samples", True),
        ("adaptive", "no"),
        ("threshold", -0.1),
        ("threshold", 1.1),
        ("threshold", math.nan),
        ("threshold", "0.5"),
        ("batches", ()),
        ("batches", (2, 2)),
        ("batches", 4),
        ("temperature", 2.1),
        ("annealing", "hot"),
        ("annealing", ()),
        ("annealing", (0.5, 3.0)),
        ("annealing", 0.5),
        ("top_p", 0.0),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", "1.1"),
        ("max_tokens", 0),
        ("prune_at", (16, 8)),
        ("prune_at", (0,)),
        ("prune_at", 16),
        ("prune_at", "16"),
        ("keep_fraction", 0.0),
        ("keep_fraction", 1.1),
        ("keep_fraction", (0.5, 0.5)),
        ("prune_below", -0.1),
        ("prune_below", (0.1,)),
        ("accept_above", 1.1),
        ("accept_above", (0.9,)),
        ("accept_above", "0.9"),
        ("max_total_tokens", 0),
        ("max_seconds", 0.0),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings({field: value}, {})
    assert caught.value.field == field
    assert caught.value.allowed
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 0, "temperature": 0, "prune_below": 1, "seed": 0},
        {"threshold": 1, "temperature": 2, "top_p": 1, "keep_fraction": 1},
        {"prune_at": [4, 8], "keep_fraction": [0.5, 1.0], "prune_below": [0.0, 0.2]},
        {"prune_at": [4, 8], "accept_above": [1, 0.9]},
        {"annealing": [0.0, 0.7, 1.0], "batches": [3, 4]},
        {"top_k": 0, "min_p": 0, "repetition_penalty": 1e-9},
        {"top_k": 1, "min_p": 1, "repetition_penalty": 100},
    ],
)
def test_bounds_and_lists_are_taken(given: dict[str, object]) -> None:
    settings = resolve_settings(given, {})
    for name, value in given.items():
        assert getattr(settings, name) == (tuple(value) if isinstance(value, list) else value)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="max_samples") as caught:
        resolve_settings({"n": 4}, {})
    assert caught.value.field == "n"


def test_a_checkpoint_beyond_max_tokens_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_tokens"):
        resolve_settings({"prune_at": (16, 64), "max_tokens": 64}, {})


def test_the_caller_goes_before_the_model_and_the_model_before_the_defaults() -> None:
    policy = {"threshold": 0.7, "temperature": 0.5}
    settings = resolve_settings({"threshold": 0.8, "temperature": None}, policy)
    assert (settings.threshold, settings.temperature) == (0.8, 0.5)
    assert settings.max_samples == Settings().max_samples


def test_no_top_k_may_be_spelt_as_vllm_spells_it() -> None:
    assert Settings(top_k=-1) == Settings(top_k=0)


MAKERS = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


def test_each_setting_is_of_the_first_who_says_it() -> None:
    policy = {"temperature": 0.9, "top_p": 1.0, "threshold": 0.7}
    settings = resolve_settings({"temperature": 0.5, "top_p": None}, policy, MAKERS)
    assert (settings.temperature, settings.top_p, settings.top_k) == (0.5, 1.0, 20)
    assert (settings.repetition_penalty, settings.min_p) == (1.05, 0.0)
    said = settings.sources
    assert list(said) == list(SETTING_NAMES)
    assert {name: source for name, source in said.items() if source != "default"} == {
        "temperature": "given",
        "top_p": "selfeval.json",  # which says what is the default too
        "threshold": "selfeval.json",
        "top_k": "generation_config.json",
        "repetition_penalty": "generation_config.json",
    }


@given(
    *(
        st.dictionaries(st.sampled_from(SAMPLING_NAMES), st.sampled_from([0.25, 0.5, 1.0]))
        for _ in range(3)
    )
)
def test_the_order_is_the_same_for_every_setting(
    asked: dict[str, float], tuned: dict[str, float], makers: dict[str, float]
) -> None:
    layers = {"given": asked, "selfeval.json": tuned, "generation_config.json": makers}
    for layer in layers.values():
        layer.pop("top_k", None)  # a count
    settings = resolve_settings(asked, tuned, makers)
    for name in SAMPLING_NAMES:
        first = next((source for source, layer in layers.items() if name in layer), "default")
        assert settings.sources[name] == first
        expected = getattr(Settings(), name) if first == "default" else layers[first][name]
        assert getattr(settings, name) == expected


def test_what_is_replaced_afterwards_is_given() -> None:
    settings = replace(resolve_settings({}, {}, MAKERS), temperature=0.3)
    assert settings.sources["temperature"] == "given"
    assert settings.sources["top_k"] == "generation_config.json"
    assert Settings(top_k=5).sources["top_k"] == "given"


def test_where_values_are_from_makes_no_settings_different() -> None:
    assert resolve_settings({"top_k": 20}, {}) == resolve_settings({}, {}, {"top_k": 20})
    with pytest.raises(ConfigurationError):
        resolve_settings({"origins": {}}, {})


def test_a_model_that_was_tuned_wrongly_is_a_checkpoint_error() -> None:
    with pytest.raises(ModelFilesError, match=r"selfeval\.json.*threshold"):
        resolve_settings({"threshold": 0.5}, {"threshold": 7})


TUNED = {
    "prune_at": [16, 64],
    "keep_fraction": [0.5, 0.25],
    "prune_below": 0.1,
    "accept_above": [0.9, 0.8],
}


def test_shares_of_the_model_go_with_its_own_checkpoints() -> None:
    settings = resolve_settings({"prune_at": (8,)}, TUNED)
    assert settings.keep_fraction == Settings().keep_fraction
    assert settings.prune_below == Settings().prune_below
    assert settings.accept_above is None


def test_checkpoints_of_the_model_that_max_tokens_never_reaches_are_left_out() -> None:
    settings = resolve_settings({"max_tokens": 50}, TUNED)
    assert (settings.prune_at, settings.keep_fraction) == ((16,), (0.5,))
    assert settings.accept_above == (0.9,)
    none = resolve_settings({"max_tokens": 16}, TUNED)
    assert none.prune_at == ()
    assert none.policy().pruning == ()
    assert resolve_settings({"max_tokens": 65}, TUNED).prune_at == (16, 64)


def test_no_checkpoint_switches_the_models_own_off() -> None:
    assert resolve_settings({"prune_at": []}, TUNED).policy().pruning == ()


def test_settings_make_the_policy() -> None:
    policy = Settings(
        threshold=0.8,
        batches=(1, 4),
        prune_at=(8, 16),
        keep_fraction=(0.5, 0.25),
        prune_below=0.1,
        accept_above=0.9,
    ).policy()
    assert policy.threshold == 0.8
    assert policy.batches == BatchSchedule((1, 4))
    assert policy.temperatures == Annealed(1.0)
    assert policy.checkpoints == (8, 16)
    assert policy.pruning == (
        Checkpoint(at=8, keep_fraction=0.5, prune_below=0.1, accept_above=0.9),
        Checkpoint(at=16, keep_fraction=0.25, prune_below=0.1, accept_above=0.9),
    )


def test_plain_best_of_n_draws_all_at_one_temperature_and_never_stops_early() -> None:
    policy = Settings(adaptive=False, max_samples=8, temperature=0.7).policy()
    assert policy.batches == BatchSchedule((8,))
    assert policy.temperatures == Constant(0.7)
    assert policy.threshold is None


def test_temperatures_may_be_given_one_by_one() -> None:
    assert Settings(annealing=(0.0, 0.6)).policy().temperatures == PerSample((0.0, 0.6))
    assert Settings(annealing="constant").policy().temperatures == Constant(1.0)


def test_limits() -> None:
    limits = Settings(max_samples=3, max_total_tokens=10, max_seconds=1.5).limits()
    assert (limits.max_samples, limits.max_total_tokens, limits.max_seconds) == (3, 10, 1.5)


def test_without_checkpoints_nothing_is_left_of_what_belongs_to_them() -> None:
    settings = Settings(
        threshold=0.7,
        prune_at=(8, 16),
        keep_fraction=(0.5, 0.25),
        prune_below=0.1,
        accept_above=(0.9, 0.8),
    )
    assert settings.unpruned() == Settings(threshold=0.7)
