"""What can be known of a sample among its prompt's samples without training; high is good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from benchmarks.signals.agreement import overlap, similarity
from benchmarks.signals.records import QUESTIONS, Array, Prompt, Sample

__all__ = [
    "ALL",
    "DISTRIBUTIONS",
    "DRAWING",
    "EVERY_ENGINE",
    "GREEDY",
    "Need",
    "Signal",
    "equal_weights",
    "standardised",
    "worst_window",
]

Need = Literal["texts", "tokens", "labels", "distributions"]
"""What an engine has to give: texts and how they ended, log-probabilities of the generated tokens,
log-probabilities of labels, or whole next-token distributions. Every engine gives the first
three; distributions are transformers' alone."""

WINDOW = 8
"""Tokens of the worst window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One way of seeing which sample is better."""

    name: str
    needs: frozenset[Need]
    of: Callable[[Prompt], Array]
    """Of each sample, [K]; the first of the highest is chosen, so the greedy one on a tie."""


def worst_window(logprobs: Array) -> float:
    """Return the lowest mean of `WINDOW` consecutive log-probabilities; of all, where fewer."""
    if len(logprobs) <= WINDOW:
        return float(logprobs.mean())
    return float(np.convolve(logprobs, np.full(WINDOW, 1 / WINDOW), mode="valid").min())


def standardised(values: Array) -> Array:
    """Return values of one prompt's samples with mean 0 and deviation 1; 0 where all are alike."""
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 1e-9 else np.zeros_like(values)


def equal_weights(name: str, signals: Sequence[Signal]) -> Signal:
    """Return the sum of signals, each standardised within its prompt."""
    return Signal(
        name=name,
        needs=frozenset[Need]().union(*(signal.needs for signal in signals)),
        of=lambda prompt: np.sum([standardised(s.of(prompt)) for s in signals], axis=0),
    )


def _of_sample(name: str, need: Need, value: Callable[[Sample], float]) -> Signal:
    return Signal(
        name=name,
        needs=frozenset({need}),
        of=lambda prompt: np.array([value(sample) for sample in prompt.samples]),
    )


def _question(name: str) -> Signal:
    return _of_sample(f"question: {name}", "labels", lambda sample: sample.log_odds[name])


def _agreement(name: str, alike: Callable[[Prompt], Array]) -> Signal:
    """Self-consistency, and for open text the choice of least Bayes risk.

    Source: Wang et al. 2022, arXiv 2203.11171; Eikema and Aziz 2020, arXiv 2005.10283.
    """
    return Signal(name=name, needs=frozenset({"texts"}), of=lambda prompt: alike(prompt).sum(-1))


def _weighted_votes(name: str, need: Need, weight: Callable[[Sample], float]) -> Signal:
    """Each sample votes for those that are like it, itself included, with a positive weight."""

    def of(prompt: Prompt) -> Array:
        votes: Array = similarity(prompt) @ np.array([weight(each) for each in prompt.samples])
        return votes

    return Signal(name=f"votes weighted by {name}", needs=frozenset({"texts", need}), of=of)


def _unless_outvoted(votes: int) -> Signal:
    """The greedy sample, unless another one has so many votes more; likeness counts as a part."""

    def of(prompt: Prompt) -> Array:
        found: Array = similarity(prompt).sum(-1)
        found[0] += votes - 1e-6  # a lead of exactly so many is enough
        return found

    return Signal(name=f"greedy unless outvoted by {votes}", needs=frozenset({"texts"}), of=of)


def _prob(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def _questions_mean(sample: Sample) -> float:
    return float(np.mean(list(sample.log_odds.values())))


_SUM = _of_sample("log-probability, sum", "tokens", lambda s: float(s.logprobs.sum()))
_MEAN = _of_sample("log-probability, mean", "tokens", lambda s: float(s.logprobs.mean()))
_WORST = _of_sample(
    f"log-probability, worst {WINDOW} tokens", "tokens", lambda s: worst_window(s.logprobs)
)
_SHORT = _of_sample("shortness", "texts", lambda s: -float(len(s.logprobs)))
_ENDED = _of_sample("ended by itself", "texts", lambda s: float(s.ended))
_AGREEMENT = _agreement("agreement", similarity)

GREEDY = Signal(
    name="greedy",
    needs=frozenset({"texts"}),
    of=lambda prompt: np.eye(len(prompt.samples))[0],
)
"""Which sample is the greedy one."""

_QUESTIONS = tuple(_question(name) for name in QUESTIONS)

DRAWING = (_SUM, _MEAN, _WORST, _SHORT, _ENDED, _AGREEMENT)
"""What drawing the samples gives on every engine, without another token."""

EVERY_ENGINE = (*DRAWING, *_QUESTIONS)
"""What every engine gives."""

DISTRIBUTIONS = (
    _of_sample("self-certainty", "distributions", lambda s: float(s.self_certainties.mean())),
    _of_sample("entropy, negative", "distributions", lambda s: -float(s.entropies.mean())),
)
"""What transformers alone gives."""

ALL = (
    *_QUESTIONS,
    _of_sample("questions, mean of all", "labels", _questions_mean),
    *DRAWING[:-1],
    *DISTRIBUTIONS,
    _AGREEMENT,
    _agreement("agreement, words", partial(overlap, n=1)),
    _agreement("agreement, word pairs", partial(overlap, n=2)),
    _unless_outvoted(2),
    _unless_outvoted(3),
    _weighted_votes("question: paper", "labels", lambda s: _prob(s.log_odds["paper"])),
    _weighted_votes("question: p_true", "labels", lambda s: _prob(s.log_odds["p_true"])),
    _weighted_votes("probability", "tokens", lambda s: float(np.exp(s.logprobs.sum()))),
    _weighted_votes("probability a token", "tokens", lambda s: float(np.exp(s.logprobs.mean()))),
    _weighted_votes("worst window", "tokens", lambda s: float(np.exp(worst_window(s.logprobs)))),
    _weighted_votes("shortness", "texts", lambda s: 1 / len(s.logprobs)),
    _weighted_votes("self-certainty", "distributions", lambda s: float(s.self_certainties.mean())),
    equal_weights("agreement + shortness", (_AGREEMENT, _SHORT)),
    equal_weights("agreement + log-probability, mean", (_AGREEMENT, _MEAN)),
    equal_weights("agreement + log-probability, sum", (_AGREEMENT, _SUM)),
    equal_weights("all that drawing gives, equal weights", DRAWING),
)
"""Every signal of the study that nothing is fitted for, in the order of the tables."""
