"""Every figure of a model's report, from recorded rollouts of held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from selfeval_backend.evaluation.metrics import PromptResult, improvement_kept, tokens_saved
from selfeval_backend.evaluation.quality import (
    Estimate,
    Prediction,
    auroc,
    bootstrap,
    brier_score,
    expected_calibration_error,
    pair_accuracy,
    predictions,
    running_at,
    whole,
)
from selfeval_backend.evaluation.replaying import replay
from selfeval_backend.evaluation.tuning import only_annealed, only_on_policy
from selfeval_backend.rollouts import Rollout, RolloutSample
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings

__all__ = ["THRESHOLDS", "measure_generator", "measure_policies", "measure_self_evaluation"]

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)


def measure_generator(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return mean reward of one sample (pass@1), mean length and spread, at temperature 1."""
    share = np.array([np.mean([s.reward for s in r.samples]) for r in only_on_policy(rollouts)])
    lengths = [len(s.token_ids) for r in rollouts for s in r.samples]
    return {
        "n": len(share),
        "one_sample_accuracy": _mean_and_error(share),
        "mean_response_tokens": float(np.mean(lengths)),
        "prompts_at_most_1_in_16": float((share <= 1 / 16).mean()),
        "prompts_at_least_15_in_16": float((share >= 15 / 16).mean()),
    }


def measure_self_evaluation(
    rollouts: Sequence[Rollout],
    evaluator: SelfEvaluator,
    positions: Sequence[int],
    *,
    tie_threshold: float,
    seed: int,
) -> dict[str, Any]:
    """Return pair accuracy, AUROC, calibration error and Brier score, whole and truncated."""
    on_policy = only_on_policy(rollouts)
    places: dict[str, Callable[[RolloutSample], int | None]] = {
        "whole": whole,
        "half": lambda sample: len(sample.token_ids) // 2,
        **{str(position): running_at(position) for position in positions},
    }
    found = {
        name: predictions(on_policy, evaluator, cut, tie_threshold=tie_threshold)
        for name, cut in places.items()
    }
    return {name: _quality(items, seed) for name, items in found.items() if items}


def _quality(items: Sequence[Prediction], seed: int) -> dict[str, Any]:
    return {
        "num_predictions": len(items),
        "pair_accuracy": asdict(bootstrap(items, pair_accuracy, seed=seed)),
        "auroc": asdict(bootstrap(items, auroc, seed=seed)),
        "ece": asdict(bootstrap(items, expected_calibration_error, seed=seed)),
        "brier": asdict(bootstrap(items, brier_score, seed=seed)),
        "mean_prediction": float(np.mean([p.prob_win_or_tie for p in items])),
        "mean_target": float(np.mean([p.target for p in items])),
    }


def measure_policies(
    rollouts: Sequence[Rollout],
    evaluator: SelfEvaluator,
    tuned: Settings,
    *,
    answer_of: Callable[[RolloutSample], str | None] | None = None,
    seed: int,
    num_resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Return quality and cost of every method, with paired bootstrap intervals over prompts.

    Args:
        rollouts: With as many temperature-1 as annealed samples a prompt.
        evaluator: Calibrated.
        tuned: What the model ships with; its max_samples are drawn.
        answer_of: Gives what a majority is counted of; None: there is no such row.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
    """
    n = tuned.max_samples
    best_of_n = f"best-of-{n}"
    on_policy, annealed = only_on_policy(rollouts), only_annealed(rollouts)
    fixed = replace(tuned, adaptive=False, prune_at=(), keep_fraction=1.0)
    adaptive = replace(fixed, adaptive=True)
    first = replace(fixed, max_samples=1)
    runs: dict[str, list[PromptResult]] = {
        "one sample": _expected_sample(on_policy),
        "greedy": replay(annealed, first, evaluator, evaluate=False),
        best_of_n: replay(on_policy, fixed, evaluator),
        "adaptive": replay(annealed, adaptive, evaluator),
        "pruning": replay(on_policy, replace(tuned, adaptive=False), evaluator),
        "adaptive+pruning": replay(annealed, tuned, evaluator),
        f"oracle of {n}": _chosen(on_policy, lambda r: max(s.reward for s in r.samples)),
        f"log-probability of {n}": _chosen(on_policy, _most_likely),
    }
    if answer_of is not None:
        found = answer_of
        runs[f"majority vote of {n}"] = _chosen(on_policy, lambda r: _majority(r, found))
    for threshold in THRESHOLDS:
        setting = replace(adaptive, threshold=threshold)
        runs[f"adaptive, threshold {threshold}"] = replay(annealed, setting, evaluator)
    floor, ceiling = runs["one sample"], runs[best_of_n]
    return [
        {"method": name, **_compare(results, floor, ceiling, seed, num_resamples)}
        for name, results in runs.items()
    ]


def _expected_sample(rollouts: Sequence[Rollout]) -> list[PromptResult]:
    """One temperature-1 sample, as the mean over all of them: the same expectation, less noise."""
    return [
        PromptResult(
            reward=float(np.mean([s.reward for s in r.samples])),
            num_samples=1,
            generated_tokens=round(float(np.mean([len(s.token_ids) + 1 for s in r.samples]))),
            self_evaluation_tokens=0,
        )
        for r in rollouts
    ]


def _chosen(rollouts: Sequence[Rollout], choose: Callable[[Rollout], float]) -> list[PromptResult]:
    return [
        PromptResult(
            reward=choose(r),
            num_samples=len(r.samples),
            generated_tokens=sum(len(s.token_ids) + (s.finish_reason == "stop") for s in r.samples),
            self_evaluation_tokens=0,
        )
        for r in rollouts
    ]


def _majority(rollout: Rollout, answer_of: Callable[[RolloutSample], str | None]) -> float:
    answers = [answer_of(sample) for sample in rollout.samples]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0.0
    winner = counts.most_common(1)[0][0]
    return rollout.samples[answers.index(winner)].reward


def _most_likely(rollout: Rollout) -> float:
    """By mean log-probability a token."""
    return max(rollout.samples, key=lambda s: s.sum_logprob / (len(s.token_ids) + 1)).reward


def _compare(
    results: Sequence[PromptResult],
    floor: Sequence[PromptResult],
    ceiling: Sequence[PromptResult],
    seed: int,
    num_resamples: int,
) -> dict[str, Any]:
    reward = [np.array([r.reward for r in side]) for side in (results, floor, ceiling)]
    cost = [
        np.array([r.generated_tokens + r.self_evaluation_tokens for r in side])
        for side in (results, ceiling)
    ]

    def kept(chosen: np.ndarray) -> float:
        mine, low, high = (float(values[chosen].mean()) for values in reward)
        share = improvement_kept(mine, one_sample=low, best_of_n=high)
        return float("nan") if share is None else share

    def saved(chosen: np.ndarray) -> float:
        share = tokens_saved(cost[0][chosen].sum(), best_of_n=cost[1][chosen].sum())
        return float("nan") if share is None else share

    return {
        "accuracy": _mean_and_error(reward[0]),
        "mean_samples": float(np.mean([r.num_samples for r in results])),
        "generated_tokens": float(np.mean([r.generated_tokens for r in results])),
        "self_evaluation_tokens": float(np.mean([r.self_evaluation_tokens for r in results])),
        "improvement_kept": asdict(_interval(kept, len(results), seed, num_resamples)),
        "tokens_saved": asdict(_interval(saved, len(results), seed, num_resamples)),
    }


def _interval(
    figure: Callable[[np.ndarray], float], n: int, seed: int, num_resamples: int
) -> Estimate:
    rng = np.random.default_rng(seed)
    values = [figure(rng.integers(n, size=n)) for _ in range(num_resamples)]
    if np.isnan(values).all():  # there is no improvement to keep a share of
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(value=figure(np.arange(n)), low=float(low), high=float(high))


def _mean_and_error(values: np.ndarray) -> dict[str, float]:
    return {
        "value": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / np.sqrt(len(values)))
        if len(values) > 1
        else float("nan"),
    }
