"""The six methods, as settings."""

from __future__ import annotations

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.catalogue import catalogue, check_names
from selfeval_backend.evaluation.methods import (
    Method,
    all_at_once,
    bounds,
    own_methods,
    standard_methods,
)
from selfeval_backend.policy import Annealed, Checkpoint, Constant
from selfeval_backend.settings import Settings
from tests.conftest import ModelFactory
from tests.unit.samples import recorded

NAMES = ["one sample", "greedy", "best-of-16", "adaptive", "pruning", "adaptive+pruning"]
TUNED = {
    "threshold": 0.8,
    "prune_at": [12, 40],
    "keep_fraction": [0.5, 0.25],
    "max_samples": 8,
    "max_tokens": 100,
    "batches": [2, 6],
}


def methods_of(make_model: ModelFactory, policy: dict[str, object]) -> dict[str, Method]:
    methods = standard_methods(make_model((), policy=policy))
    assert [method.name for method in methods] == NAMES
    return {method.name: method for method in methods}


def test_one_sample_and_greedy_pay_for_no_self_evaluation(make_model: ModelFactory) -> None:
    methods = methods_of(make_model, TUNED)

    for name, temperature in (("one sample", 1.0), ("greedy", 0.0)):
        policy = methods[name].policy()
        assert not policy.evaluate
        assert policy.temperatures == Constant(temperature)
        assert (policy.threshold, policy.pruning) == (None, ())
        assert methods[name].settings.max_samples == 1
    assert all(methods[name].evaluate for name in NAMES[2:])


def test_best_of_16_draws_all_at_once_at_temperature_1(make_model: ModelFactory) -> None:
    method = methods_of(make_model, TUNED)["best-of-16"]
    policy = method.policy()

    assert method.settings.max_samples == 16
    assert policy.batches.target(0, 16) == 16
    assert policy.temperatures == Constant(1.0)
    assert (policy.threshold, policy.pruning) == (None, ())


def test_the_others_follow_what_the_model_was_tuned_for(make_model: ModelFactory) -> None:
    methods = methods_of(make_model, TUNED)
    checkpoints = (Checkpoint(at=12, keep_fraction=0.5), Checkpoint(at=40, keep_fraction=0.25))

    adaptive = methods["adaptive"].policy()
    assert (adaptive.threshold, adaptive.pruning) == (0.8, ())
    assert adaptive.batches.cumulative == (2, 6)
    assert adaptive.temperatures == Annealed(1.0)

    pruning = methods["pruning"].policy()
    assert (pruning.threshold, pruning.pruning) == (None, checkpoints)
    assert pruning.batches.target(0, 16) == 16
    assert pruning.temperatures == Constant(1.0)

    both = methods["adaptive+pruning"].policy()
    assert (both.threshold, both.pruning) == (0.8, checkpoints)
    assert both.batches.cumulative == (2, 6)

    assert all(method.settings.max_tokens == 100 for method in methods.values())
    assert all(methods[name].settings.max_samples == 16 for name in NAMES[2:])


def test_a_model_that_was_tuned_for_nothing_has_defaults(make_model: ModelFactory) -> None:
    methods = methods_of(make_model, {})

    both = methods["adaptive+pruning"].policy()
    assert both.threshold == 0.9
    assert both.pruning == (
        Checkpoint(at=32, keep_fraction=0.5),
        Checkpoint(at=64, keep_fraction=0.5),
    )
    assert methods["pruning"].policy().pruning == both.pruning
    assert methods["adaptive"].policy().pruning == ()


def test_an_engine_that_cannot_prune_is_refused(make_model: ModelFactory) -> None:
    model = make_model((), evaluates_mid_generation=False)

    with pytest.raises(ConfigurationError, match="cannot evaluate mid-generation"):
        standard_methods(model)


def test_a_recording_has_the_same_methods_as_a_live_run() -> None:
    found = catalogue(recorded.recording())
    own = [method for method in found.methods if method.rival is None]

    assert [method.name for method in own][:2] == NAMES[:2]
    assert [method.name for method in own][2:4] == [f"best-of-{recorded.NUM_SAMPLES}", "adaptive"]
    for name in NAMES:
        check_names(name, num_samples=16)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_pruning_alone_draws_as_best_of_n_does(temperature: float) -> None:
    tuned = Settings(max_samples=4, prune_at=(8,), keep_fraction=0.5, batches=(1, 3))
    full = all_at_once(tuned.unpruned(), temperature=temperature)
    methods = {method.name: method for method in own_methods(full, tuned, rotations=4)}

    pruning, best_of_n = methods["pruning"].policy(), methods["best-of-4"].policy()
    assert pruning.temperatures == best_of_n.temperatures == Constant(temperature)
    assert pruning.batches == best_of_n.batches
    assert pruning.pruning == methods["adaptive+pruning"].policy().pruning
    assert bounds(full, rotations=4) == (methods["one sample"], methods["best-of-4"])
    assert methods["one sample"].rotations == 4


def test_without_checkpoints_or_annealed_samples_there_is_less_to_show() -> None:
    tuned = Settings(max_samples=4)
    full = all_at_once(tuned, temperature=1.0)

    names = [method.name for method in own_methods(full, tuned, annealed=False)]
    assert names == ["one sample", "best-of-4", "adaptive"]
