"""Every figure of a model's report, from samples of held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.methods import (
    ONE_SAMPLE,
    Method,
    all_at_once,
    best_of_n_name,
    own_methods,
)
from selfeval_backend.evaluation.quality import (
    Prediction,
    auroc,
    brier_score,
    expected_calibration_error,
    pair_accuracy,
    predictions,
    running_at,
    whole,
)
from selfeval_backend.evaluation.rivals import MajorityVote, MeanLogprob, Oracle, Rival
from selfeval_backend.evaluation.table import MethodSummary, replay_table
from selfeval_backend.samples.records import PromptRecord, Recording, SampleRecord
from selfeval_backend.settings import Settings

__all__ = ["THRESHOLDS", "measure_generator", "measure_policies", "measure_self_evaluation"]

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)


def measure_generator(prompts: Sequence[PromptRecord]) -> dict[str, Any]:
    """Return mean reward of one sample (pass@1), mean length and spread.

    Args:
        prompts: With samples at temperature 1 alone.
    """
    share = np.array([np.mean([s.reward for s in p.samples]) for p in prompts])
    lengths = [len(s.token_ids) for p in prompts for s in p.samples]
    return {
        "n": len(share),
        "one_sample_accuracy": _mean_and_error(share),
        "mean_response_tokens": float(np.mean(lengths)),
        "prompts_at_most_1_in_16": float((share <= 1 / 16).mean()),
        "prompts_at_least_15_in_16": float((share >= 15 / 16).mean()),
    }


def measure_self_evaluation(
    recording: Recording, positions: Sequence[int], *, tie_threshold: float, seed: int
) -> dict[str, Any]:
    """Return pair accuracy, AUROC, calibration error and Brier score, whole and truncated."""
    info = recording.info
    places: dict[str, Callable[[SampleRecord], int | None]] = {
        "whole": whole,
        "half": lambda sample: len(sample.token_ids) // 2,
        **{str(position): running_at(position) for position in positions},
    }
    found = {
        name: predictions(
            recording.on_policy,
            recording.reader,
            cut,
            temperature=info.temperature,
            tie_threshold=tie_threshold,
        )
        for name, cut in places.items()
    }
    return {name: _quality(items, seed) for name, items in found.items() if items}


def _quality(items: Sequence[Prediction], seed: int) -> dict[str, Any]:
    return {
        "num_predictions": len(items),
        "pair_accuracy": asdict(pair_accuracy.estimate(items, seed=seed)),
        "auroc": asdict(auroc.estimate(items, seed=seed)),
        "ece": asdict(expected_calibration_error.estimate(items, seed=seed)),
        "brier": asdict(brier_score.estimate(items, seed=seed)),
        "mean_prediction": float(np.mean([p.prob_win_or_tie for p in items])),
        "mean_target": float(np.mean([p.target for p in items])),
    }


def measure_policies(
    recording: Recording, tuned: Settings, *, seed: int, num_resamples: int = 1000
) -> list[dict[str, Any]]:
    """Return quality and cost of every method, with paired bootstrap intervals over prompts.

    Args:
        recording: With as many temperature-1 as annealed samples a prompt, of a calibrated model;
            a majority is counted of their answers, if they have any.
        tuned: What the model ships with; its max_samples are drawn.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
    """
    n = tuned.max_samples
    votes = any(s.answer is not None for p in recording.on_policy for s in p.samples)
    methods = _methods(tuned, votes=votes)
    summaries = replay_table(recording, methods).summaries(
        one_sample=ONE_SAMPLE, best_of_n=best_of_n_name(n), seed=seed, num_resamples=num_resamples
    )
    return [_row(summary) for summary in summaries]


def _methods(tuned: Settings, *, votes: bool) -> list[Method]:
    n = tuned.max_samples
    tuned = replace(tuned, adaptive=True)
    adaptive = tuned.unpruned()
    fixed = all_at_once(adaptive, temperature=tuned.temperature)
    rivals: dict[str, Rival] = {
        f"oracle of {n}": Oracle(),
        f"log-probability of {n}": MeanLogprob(),
        **({f"majority vote of {n}": MajorityVote()} if votes else {}),
    }
    return [
        # One sample is the mean over all of them: the same expectation, less noise.
        *own_methods(fixed, tuned, rotations=n),
        *(Method(name=name, settings=fixed, rival=rival) for name, rival in rivals.items()),
        *(
            Method(
                name=f"adaptive, threshold {threshold}",
                settings=replace(adaptive, threshold=threshold),
            )
            for threshold in THRESHOLDS
        ),
    ]


def _row(summary: MethodSummary) -> dict[str, Any]:
    nothing = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    return {
        "method": summary.method,
        "accuracy": {
            "value": summary.quality.value,
            "standard_error": summary.standard_error,
        },
        "mean_samples": summary.mean_samples,
        "generated_tokens": summary.generated_tokens,
        "self_evaluation_tokens": summary.self_evaluation_tokens,
        "improvement_kept": asdict(summary.improvement_kept or nothing),
        "tokens_saved": asdict(summary.tokens_saved),
    }


def _mean_and_error(values: np.ndarray) -> dict[str, float]:
    return {
        "value": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / np.sqrt(len(values)))
        if len(values) > 1
        else float("nan"),
    }
