"""Failures are found by name, and a good self-evaluation has none."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from selfeval_backend.evaluation.quality import Prediction
from selfeval_backend.training.signatures import find_signatures

Say = Callable[[float, random.Random], float]


def items(say: Say, *, share_right: float = 0.5, num_tied: int = 20) -> list[Prediction]:
    """100 prompts of four samples, mixed or tied; `say` gives a logit for a reward."""
    rng = random.Random(0)
    found = []
    for prompt in range(100):
        rewards = [float(rng.random() < share_right) for _ in range(4)]
        if prompt < num_tied:
            rewards = [0.0] * 4
        for reward in rewards:
            logit = say(reward, rng)
            target = sum(reward >= other for other in rewards) - 1
            found.append(
                Prediction(
                    prompt=prompt,
                    logit=logit,
                    prob_win_or_tie=0.9 if logit > 0 else 0.1,
                    target=target / 3,
                    reward=reward,
                )
            )
    return found


def figures(**given: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "pairs": (0.9, 0.85),
        "auroc": 0.85,
        "adaptive": 3.0,
        "before": 0.5,
        "after": 0.5,
        **given,
    }
    value, low = facts["pairs"]
    error = {"standard_error": 0.02}
    return {
        "self_evaluation": {
            "whole": {
                "pair_accuracy": {"value": value, "low": low, "high": 1.0},
                "auroc": {"value": facts["auroc"]},
            }
        },
        "policies": [{"method": "adaptive", "mean_samples": facts["adaptive"]}],
        "before": {"one_sample_accuracy": {"value": facts["before"], **error}},
        "after": {"one_sample_accuracy": {"value": facts["after"], **error}},
    }


def good(reward: float, rng: random.Random) -> float:
    return 2.0 if reward or rng.random() < 0.3 else -1.0


def names(said: list[Prediction], **given: Any) -> list[str]:
    found = find_signatures(said, figures=figures(**given), max_samples=16)
    assert all(signature.evidence and signature.remedy for signature in found)
    return [signature.name for signature in found]


def test_a_good_self_evaluation_has_none() -> None:
    assert names(items(good, num_tied=0)) == []


@pytest.mark.parametrize(
    ("logit", "name"),
    [(3.0, 'always "No" (overconfident)'), (-3.0, 'always "Yes" (underconfident)')],
)
def test_one_sided_answers(logit: float, name: str) -> None:
    assert name in names(items(lambda *_: logit))


def test_hardness_without_the_answer() -> None:
    said = items(good, num_tied=0)
    assert names(said, pairs=(0.51, 0.47), auroc=0.78) == [
        "knows how hard a prompt is, and nothing about the answer"
    ]
    assert names(said, pairs=(0.51, 0.47), auroc=0.52) == []


def test_ties_that_are_told_as_losses() -> None:
    told = items(lambda reward, _: 2.0 if reward else -2.0)
    assert names(told) == ["ties not told as wins are"]


def test_too_many_rounds_and_a_worse_generator() -> None:
    said = items(good, num_tied=0)
    assert names(said, adaptive=9.0) == ["too many rounds: latency spikes"]
    assert names(said, before=0.53, after=0.5) == ["the generator got worse"]
    assert names(said, before=0.51, after=0.5) == []
