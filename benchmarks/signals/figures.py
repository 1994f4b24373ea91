"""What a signal's order of the samples is worth, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.signals.fitted import cross_fitted, transferred
from benchmarks.signals.records import Array, Prompt
from benchmarks.signals.signals import (
    ALL,
    DISTRIBUTIONS,
    DRAWING,
    EVERY_ENGINE,
    GREEDY,
    Signal,
)
from selfeval_backend.evaluation.bootstrap import Estimate, interval, resamples

__all__ = [
    "Figures",
    "Fitted",
    "Mean",
    "Ranking",
    "Verdict",
    "figures",
    "mean",
    "rankings",
    "verdict",
]

NUM_RESAMPLES = 2000
HARMLESS = -0.01
"""What the lower end of choice minus greedy has to be above on each model."""
NUM_MODELS = 3
"""Fewer cannot make a default."""
MIN_PROMPTS = 150
"""Of a model that a verdict counts."""

Fitted = Literal["nothing", "other models", "this model"]
"""What a combination's weights were learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What one signal says of all samples of one model."""

    name: str
    every_engine: bool
    """Whether every engine gives what it is made of."""
    fitted: Fitted
    values: tuple[Array, ...]
    """[P][K]; high is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A figure, its standard error and its 95 % interval, both by bootstrap over prompts."""

    estimate: Estimate
    standard_error: float
    n: int
    """Prompts, or pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of a model's table."""

    pairs: Mean
    """How often the better of two drawn samples of a prompt is put first; half where equal."""
    accuracy: Mean
    """Mean reward of the choice among all samples."""
    against_greedy: Mean
    """Choice minus greedy, paired."""
    against_one: Mean
    """Choice minus one drawn sample, paired: the mean over a prompt's drawn ones."""


Verdict = Literal["qualifies", "not refuted", "may harm", "helps nowhere"]
"""What the rule says of a signal; not refuted: so far, on too few models."""


def rankings(models: Mapping[str, Sequence[Prompt]]) -> Mapping[str, tuple[Ranking, ...]]:
    """Return what every signal and combination says of each model's samples, by model."""
    return {
        name: (*_plain(prompts), *_cross_fitted(prompts), *_transferred(name, models))
        for name, prompts in models.items()
    }


def _plain(prompts: Sequence[Prompt]) -> tuple[Ranking, ...]:
    return tuple(
        _ranking(s.name, (s,), "nothing", tuple(s.of(prompt) for prompt in prompts)) for s in ALL
    )


_SETS: Mapping[str, Sequence[Signal]] = {
    "drawing": (GREEDY, *DRAWING),
    "every engine": (GREEDY, *EVERY_ENGINE),
    "all": (GREEDY, *EVERY_ENGINE, *DISTRIBUTIONS),
}
"""What is combined: being the greedy sample is known too, and worth something."""


def _cross_fitted(prompts: Sequence[Prompt]) -> tuple[Ranking, ...]:
    return tuple(
        _ranking(f"fitted: {name}", signals, "this model", cross_fitted(prompts, signals))
        for name, signals in _SETS.items()
    )


def _transferred(name: str, models: Mapping[str, Sequence[Prompt]]) -> tuple[Ranking, ...]:
    others = [prompt for other, prompts in models.items() if other != name for prompt in prompts]
    if not others:
        return ()
    return tuple(
        _ranking(
            f"fitted elsewhere: {key}",
            signals,
            "other models",
            transferred(models[name], signals, others),
        )
        for key, signals in _SETS.items()
    )


def _ranking(
    name: str, signals: Sequence[Signal], fitted: Fitted, values: tuple[Array, ...]
) -> Ranking:
    every = all("distributions" not in signal.needs for signal in signals)
    return Ranking(name=name, every_engine=every, fitted=fitted, values=values)


def figures(ranking: Ranking, prompts: Sequence[Prompt], *, seed: int) -> Figures:
    """Return what a ranking is worth on prompts, its values' order.

    Args:
        ranking: Of exactly these prompts.
        prompts: At least one.
        seed: Of the bootstrap.
    """
    rewards = [prompt.rewards for prompt in prompts]
    chosen = _each([r[np.argmax(v)] for r, v in zip(rewards, ranking.values, strict=True)])
    counts = np.array([_pairs(r, v) for r, v in zip(rewards, ranking.values, strict=True)])
    return Figures(
        pairs=_ratio(counts[:, 0], counts[:, 1], seed=seed),
        accuracy=mean(chosen, seed=seed),
        against_greedy=mean(chosen - _each([r[0] for r in rewards]), seed=seed),
        against_one=mean(chosen - _each([r[1:].mean() for r in rewards]), seed=seed),
    )


def _each(values: Sequence[float]) -> Array:
    return np.array(values, np.float64)


def _pairs(rewards: Array, values: Array) -> tuple[float, float]:
    """Return how many pairs of drawn samples are in order, and how many differ in reward."""
    better = rewards[1:, None] > rewards[1:]
    higher = np.sign(values[1:, None] - values[1:])
    return float((better * (higher + 1) / 2).sum()), float(better.sum())


def mean(values: Array, *, seed: int) -> Mean:
    """Return the mean of one number a prompt, [P]."""
    return _ratio(values, np.ones(len(values)), seed=seed)


def _ratio(numerator: Array, denominator: Array, *, seed: int) -> Mean:
    """Return sum over sum, [P] each; NaN where the denominator is 0."""
    drawn = resamples(len(numerator), seed=seed, num_resamples=NUM_RESAMPLES)
    with np.errstate(invalid="ignore"):
        value = np.divide(numerator.sum(), denominator.sum())
        resampled = (drawn @ numerator) / (drawn @ denominator)
    finite = resampled[np.isfinite(resampled)]
    return Mean(
        estimate=interval(float(value), resampled),
        standard_error=float(finite.std()) if len(finite) else float("nan"),
        n=int(denominator.sum()),
    )


def verdict(against_greedy: Sequence[Mean]) -> Verdict:
    """Return what the rule says of a signal's choice minus greedy on several models.

    It qualifies where the lower end is above -0.01 on each model and above 0 on one. Models of
    fewer than 150 prompts do not count, and with fewer than three that do nothing qualifies.
    """
    counted = [each.estimate for each in against_greedy if each.n >= MIN_PROMPTS]
    if any(each.low <= HARMLESS for each in counted):
        return "may harm"
    if len(counted) < NUM_MODELS:
        return "not refuted"
    return "qualifies" if any(each.low > 0 for each in counted) else "helps nowhere"
