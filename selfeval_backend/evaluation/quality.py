"""How good a self-evaluation is, on recorded rollouts.

Within-prompt pair accuracy is the figure that decides: a self-evaluation may know how hard a
question is (a fine AUROC over all samples) and nothing about the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfeval_backend.rollouts import Rollout, RolloutSample, win_or_tie_targets
from selfeval_backend.selfeval import EvaluationReader

__all__ = [
    "Cut",
    "Estimate",
    "Prediction",
    "auroc",
    "bootstrap",
    "brier_score",
    "expected_calibration_error",
    "pair_accuracy",
    "pair_accuracy_estimate",
    "predictions",
    "running_at",
    "whole",
]

Cut = Callable[[RolloutSample], int | None]
"""Which prefix of a sample is looked at, in tokens; None leaves the sample out."""


def whole(sample: RolloutSample) -> int | None:
    """Look at the whole response; a `Cut`."""
    return len(sample.token_ids)


def running_at(num_tokens: int) -> Cut:
    """Look at the samples that run on past a number of tokens, cut there."""
    return lambda sample: num_tokens if len(sample.token_ids) > num_tokens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its 95 % bootstrap interval over prompts."""

    value: float
    low: float
    high: float


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
    """Share of fresh temperature-1 samples of the prompt that are not better."""
    reward: float


def predictions(
    rollouts: Sequence[Rollout],
    evaluator: EvaluationReader,
    cut: Cut,
    *,
    tie_threshold: float = 0.0,
) -> list[Prediction]:
    """Collect what was said of one prefix of every sample.

    Args:
        rollouts: With label log-probabilities at the prefixes that `cut` asks for.
        evaluator: Turns them into probabilities.
        cut: Which prefix.
        tie_threshold: Rewards that differ by no more tie.
    """
    found = []
    for prompt, rollout in enumerate(rollouts):
        targets = _targets(rollout, tie_threshold)
        for sample, target in zip(rollout.samples, targets, strict=True):
            num_tokens = cut(sample)
            said = {n: (win, loss) for n, win, loss in sample.label_logprobs}
            if num_tokens is None or num_tokens not in said:
                continue
            evaluation = evaluator.read(
                said[num_tokens],
                num_tokens=num_tokens,
                final=num_tokens == len(sample.token_ids),
            )
            found.append(
                Prediction(
                    prompt=prompt,
                    logit=said[num_tokens][0] - said[num_tokens][1],
                    prob_win_or_tie=evaluation.prob_win_or_tie,
                    target=target,
                    reward=sample.reward,
                )
            )
    return found


def _targets(rollout: Rollout, tie_threshold: float) -> list[float]:
    """Win-or-tie shares against temperature-1 samples: what "fresh on-policy" means."""
    fresh = [s.reward for s in rollout.samples if s.temperature == 1.0]
    on_policy = iter(win_or_tie_targets(fresh, tie_threshold=tie_threshold))
    return [
        next(on_policy)
        if sample.temperature == 1.0
        else sum(sample.reward >= other - tie_threshold for other in fresh) / len(fresh)
        for sample in rollout.samples
    ]


def pair_accuracy(items: Sequence[Prediction]) -> float:
    """Return how often the better one of two samples of a prompt scores higher; ties count half."""
    right, pairs = map(sum, zip(*map(_pairs, _by_prompt(items)), strict=True))
    return right / pairs if pairs else float("nan")


def auroc(items: Sequence[Prediction]) -> float:
    """Return the area under the ROC curve of "a fresh sample is not better", over all prompts.

    A target between 0 and 1 counts as that much of a positive and the rest of a negative, which is
    the expectation over fresh samples.
    """
    logits = np.array([p.logit for p in items])
    targets = np.array([p.target for p in items])
    _, place = np.unique(logits, return_inverse=True)
    positive = np.bincount(place, weights=targets)
    negative = np.bincount(place, weights=1.0 - targets)
    below = np.cumsum(negative) - negative / 2  # equal scores count half
    pairs = positive.sum() * negative.sum()
    return float((positive * below).sum() / pairs) if pairs else float("nan")


def pair_accuracy_estimate(
    items: Sequence[Prediction], *, seed: int, num_resamples: int = 1000
) -> Estimate:
    """Return `pair_accuracy` with its 95 % interval, drawing whole prompts."""
    counts = np.array([_pairs(group) for group in _by_prompt(items)])  # [P, 2]: right, all
    num_prompts = len(counts)
    shares = np.random.default_rng(seed).multinomial(
        num_prompts, np.full(num_prompts, 1.0 / num_prompts), size=num_resamples
    )
    right, pairs = (shares @ counts).T
    if not counts[:, 1].sum():
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    low, high = np.quantile(right[pairs > 0] / pairs[pairs > 0], [0.025, 0.975])
    return Estimate(
        value=float(counts[:, 0].sum() / counts[:, 1].sum()), low=float(low), high=float(high)
    )


def _pairs(group: Sequence[Prediction]) -> tuple[float, float]:
    """Return how many pairs of a prompt are ordered right, and how many there are."""
    logits = np.array([p.logit for p in group])
    rewards = np.array([p.reward for p in group])
    better = rewards[:, None] > rewards[None, :]  # [i, j]: i is better than j
    higher = np.sign(logits[:, None] - logits[None, :])
    return float((better * (higher + 1) / 2).sum()), float(better.sum())


def expected_calibration_error(items: Sequence[Prediction], *, num_bins: int = 15) -> float:
    """Return the ECE over bins of equal width: |mean prediction - mean target|, by share."""
    said = np.array([p.prob_win_or_tie for p in items])
    target = np.array([p.target for p in items])
    bins = np.minimum((said * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=said - target, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(items))


def brier_score(items: Sequence[Prediction]) -> float:
    """Return the mean squared distance of prediction and target."""
    return float(np.mean([(p.prob_win_or_tie - p.target) ** 2 for p in items]))


def bootstrap(
    items: Sequence[Prediction],
    figure: Callable[[Sequence[Prediction]], float],
    *,
    seed: int,
    num_resamples: int = 200,
) -> Estimate:
    """Estimate a figure with a 95 % interval, drawing whole prompts."""
    groups = _by_prompt(items)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        chosen = rng.integers(len(groups), size=len(groups))
        resample = [
            Prediction(
                prompt=place,
                logit=p.logit,
                prob_win_or_tie=p.prob_win_or_tie,
                target=p.target,
                reward=p.reward,
            )
            for place, group in enumerate(chosen)
            for p in groups[group]
        ]
        values.append(figure(resample))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(value=figure(items), low=float(low), high=float(high))


def _by_prompt(items: Sequence[Prediction]) -> list[list[Prediction]]:
    groups: dict[int, list[Prediction]] = {}
    for item in items:
        groups.setdefault(item.prompt, []).append(item)
    return list(groups.values())
