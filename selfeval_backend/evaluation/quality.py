"""How good a self-evaluation is, on samples that were drawn.

Within-prompt pair accuracy is the figure that decides: a self-evaluation may know how hard a
question is (a fine AUROC over all samples) and nothing about the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap
from selfeval_backend.samples.records import PromptRecord, SampleRecord
from selfeval_backend.samples.rewards import win_or_tie_targets
from selfeval_backend.selfeval import EvaluationReader

__all__ = [
    "Cut",
    "Figure",
    "Prediction",
    "auroc",
    "brier_score",
    "expected_calibration_error",
    "pair_accuracy",
    "predictions",
    "running_at",
    "whole",
]

Cut = Callable[[SampleRecord], int | None]
"""Which prefix of a sample is looked at, in tokens; None leaves the sample out."""


def whole(sample: SampleRecord) -> int | None:
    """Look at the whole response; a `Cut`."""
    return len(sample.token_ids)


def running_at(num_tokens: int) -> Cut:
    """Look at the samples that run on past a number of tokens, cut there."""
    return lambda sample: num_tokens if len(sample.token_ids) > num_tokens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was said of one prefix, and what is true of its sample."""

    prompt: int
    """Which prompt, from 0."""
    logit: float
    """Raw natural log-odds of win or tie."""
    prob_win_or_tie: float
    """As the evaluator gives it: calibrated if it is."""
    target: float
    """Share of fresh samples of the prompt that are not better."""
    reward: float


def predictions(
    prompts: Sequence[PromptRecord],
    evaluator: EvaluationReader,
    cut: Cut,
    *,
    temperature: float = 1.0,
    tie_threshold: float = 0.0,
) -> list[Prediction]:
    """Collect what was said of one prefix of every sample.

    Args:
        prompts: With label log-probabilities at the prefixes that `cut` asks for.
        evaluator: Turns them into probabilities.
        cut: Which prefix.
        temperature: Of fresh samples, which the others are compared with.
        tie_threshold: Rewards that differ by no more tie.
    """
    found = []
    for place, prompt in enumerate(prompts):
        targets = _targets(prompt, temperature, tie_threshold)
        for sample, target in zip(prompt.samples, targets, strict=True):
            num_tokens = cut(sample)
            said = sample.label_logprobs
            if num_tokens is None or num_tokens not in said:
                continue
            evaluation = evaluator.read(
                said[num_tokens],
                num_tokens=num_tokens,
                final=num_tokens == len(sample.token_ids),
            )
            found.append(
                Prediction(
                    prompt=place,
                    logit=said[num_tokens][0] - said[num_tokens][1],
                    prob_win_or_tie=evaluation.prob_win_or_tie,
                    target=target,
                    reward=sample.reward,
                )
            )
    return found


def _targets(prompt: PromptRecord, temperature: float, tie_threshold: float) -> list[float]:
    """Win-or-tie shares against samples of one temperature: what "fresh on-policy" means."""
    fresh = [s.reward for s in prompt.at(temperature).samples]
    on_policy = iter(win_or_tie_targets(fresh, tie_threshold=tie_threshold))
    return [
        next(on_policy)
        if sample.temperature == temperature
        else sum(sample.reward >= other - tie_threshold for other in fresh) / len(fresh)
        for sample in prompt.samples
    ]


@dataclass(frozen=True)
class Columns:
    """Predictions as arrays, one entry a prediction; prompts are numbered from 0 without gaps."""

    prompt: np.ndarray
    logit: np.ndarray
    prob_win_or_tie: np.ndarray
    target: np.ndarray
    reward: np.ndarray

    @classmethod
    def of(cls, items: Sequence[Prediction]) -> Columns:
        """Return predictions as arrays."""
        _, prompt = np.unique([p.prompt for p in items], return_inverse=True)
        rest = np.array([(p.logit, p.prob_win_or_tie, p.target, p.reward) for p in items])
        return cls(prompt, *rest.reshape(-1, 4).T)

    @property
    def num_prompts(self) -> int:
        """How many prompts there are."""
        return int(self.prompt.max(initial=-1)) + 1

    @cached_property
    def rank(self) -> np.ndarray:
        """The place of each logit among the different ones, from the lowest."""
        return np.unique(self.logit, return_inverse=True)[1]

    @cached_property
    def pairs(self) -> np.ndarray:
        """How many pairs of each prompt are ordered right, and how many there are, [P, 2].

        A pair is two samples with different rewards; it counts half where their scores are equal.
        """
        counts = np.zeros((self.num_prompts, 2))
        order = np.argsort(self.prompt, kind="stable")
        ends = np.cumsum(np.bincount(self.prompt, minlength=self.num_prompts))
        for prompt, group in enumerate(np.split(order, ends[:-1])):
            logit, reward = self.logit[group], self.reward[group]
            better = reward[:, None] > reward
            higher = np.sign(logit[:, None] - logit)
            counts[prompt] = (better * (higher + 1) / 2).sum(), better.sum()
        return counts


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of predictions, and of predictions where prompts count several times or never."""

    of_weighted: Callable[[Columns, np.ndarray], float]
    """Takes how often each prompt counts, [P]."""

    def __call__(self, items: Sequence[Prediction]) -> float:
        """Return the figure where each prompt counts once; NaN where there is nothing to say."""
        columns = Columns.of(items)
        return self.of_weighted(columns, np.ones(columns.num_prompts))

    def estimate(
        self, items: Sequence[Prediction], *, seed: int, num_resamples: int = 1000
    ) -> Estimate:
        """Return the figure with its 95 % interval, drawing whole prompts with replacement."""
        columns = Columns.of(items)
        return bootstrap(
            partial(self.of_weighted, columns),
            columns.num_prompts,
            seed=seed,
            num_resamples=num_resamples,
        )


def _pair_accuracy(columns: Columns, weights: np.ndarray) -> float:
    right, pairs = weights @ columns.pairs
    return float(right / pairs) if pairs else math.nan


def _auroc(columns: Columns, weights: np.ndarray) -> float:
    weight = weights[columns.prompt]
    positive = np.bincount(columns.rank, weights=weight * columns.target)
    negative = np.bincount(columns.rank, weights=weight * (1.0 - columns.target))
    below = np.cumsum(negative) - negative / 2  # equal scores count half
    pairs = positive.sum() * negative.sum()
    return float((positive * below).sum() / pairs) if pairs else math.nan


def _expected_calibration_error(columns: Columns, weights: np.ndarray) -> float:
    weight = weights[columns.prompt]
    said = columns.prob_win_or_tie
    bins = np.minimum((said * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = np.bincount(bins, weights=weight * (said - columns.target), minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / weight.sum()) if len(said) else math.nan


def _brier_score(columns: Columns, weights: np.ndarray) -> float:
    weight = weights[columns.prompt]
    squares = (columns.prob_win_or_tie - columns.target) ** 2
    return float(weight @ squares / weight.sum()) if len(squares) else math.nan


_NUM_BINS = 15

pair_accuracy = Figure(_pair_accuracy)
"""How often the better one of two samples of a prompt scores higher; ties count half."""

auroc = Figure(_auroc)
"""The area under the ROC curve of "a fresh sample is not better", over all prompts.

A target between 0 and 1 counts as that much of a positive and the rest of a negative, which is the
expectation over fresh samples.
"""

expected_calibration_error = Figure(_expected_calibration_error)
"""The ECE over 15 bins of equal width: |mean prediction - mean target|, by share."""

brier_score = Figure(_brier_score)
"""The mean squared distance of prediction and target."""
