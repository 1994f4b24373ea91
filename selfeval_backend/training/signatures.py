"""Failure signatures: what goes wrong with a self-evaluation, found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfeval_backend.evaluation.quality import Prediction

__all__ = ["Signature", "find_signatures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A failure that was found, and the figures that show it."""

    name: str
    evidence: str
    remedy: str


def find_signatures(
    items: Sequence[Prediction], *, figures: Mapping[str, Any], max_samples: int
) -> list[Signature]:
    """Name the failures that the test figures show.

    Args:
        items: Of whole temperature-1 test responses; `logit` is raw.
        figures: Of the report: before, after, kl, self_evaluation, policies.
        max_samples: N of Best-of-N.
    """
    found = [
        _one_sided(items),
        _difficulty_only(figures["self_evaluation"]["whole"]),
        _ties(items),
        _rounds(figures["policies"], max_samples),
        _generator(figures["before"], figures["after"]),
    ]
    return [signature for signature in found if signature is not None]


def _one_sided(items: Sequence[Prediction]) -> Signature | None:
    said = float(np.mean([p.logit > 0 for p in items]))
    true = float(np.mean([p.target for p in items]))
    if said >= 0.98 and true < 0.9:
        return Signature(
            name='always "No" (overconfident)',
            evidence=f"says no to {said:.1%} of the responses; {true:.1%} win or tie",
            remedy="More losses: preferences.mixed_only or balance, or a smaller tie_threshold.",
        )
    if said <= 0.02 and true > 0.1:
        return Signature(
            name='always "Yes" (underconfident)',
            evidence=f"says no to {said:.1%} of the responses; {true:.1%} win or tie",
            remedy="More steps on the preferences after contrast, which leaves probabilities low.",
        )
    return None


def _difficulty_only(whole: Mapping[str, Any]) -> Signature | None:
    pairs, ranking = whole["pair_accuracy"], whole["auroc"]
    if not (pairs["low"] <= 0.5 or pairs["value"] < 0.55) or not ranking["value"] > 0.6:
        return None
    return Signature(
        name="knows how hard a prompt is, and nothing about the answer",
        evidence=f"AUROC {ranking['value']:.3f} over all responses, but within a prompt "
        f"{pairs['value']:.1%} of the pairs in order",
        remedy="A contrast phase (finetune.contrast), and a larger share of mixed prompts.",
    )


def _ties(items: Sequence[Prediction]) -> Signature | None:
    """Where all samples tie, starting over does not help: that is to be said as of a win."""
    by_prompt: dict[int, list[Prediction]] = {}
    for item in items:
        by_prompt.setdefault(item.prompt, []).append(item)
    groups: dict[str, list[float]] = {"ties": [], "wins": [], "losses": []}
    for prompt in by_prompt.values():
        if all(p.target == 1.0 for p in prompt):
            groups["ties"] += [p.prob_win_or_tie for p in prompt]
            continue
        best = max(p.reward for p in prompt)
        for p in prompt:
            groups["wins" if p.reward == best else "losses"].append(p.prob_win_or_tie)
    if not all(groups.values()):
        return None
    ties, wins, losses = (float(np.mean(values)) for values in groups.values())
    if wins - losses < 0.05 or ties >= (wins + losses) / 2:
        return None
    return Signature(
        name="ties not told as wins are",
        evidence=f"mean prob_win_or_tie {ties:.2f} where all samples tie, {wins:.2f} of wins, "
        f"{losses:.2f} of losses",
        remedy="Keep prompts whose samples tie (mixed_only: false), and more steps on preferences.",
    )


def _rounds(policies: Sequence[Mapping[str, Any]], max_samples: int) -> Signature | None:
    adaptive = next((row for row in policies if row["method"] == "adaptive"), None)
    if adaptive is None or adaptive["mean_samples"] <= max_samples / 2:
        return None
    return Signature(
        name="too many rounds: latency spikes",
        evidence=f"adaptive sampling draws {adaptive['mean_samples']:.1f} of {max_samples} samples "
        "on average",
        remedy="A lower threshold, or fewer and larger batches.",
    )


def _generator(before: Mapping[str, Any], after: Mapping[str, Any]) -> Signature | None:
    old, new = before["one_sample_accuracy"], after["one_sample_accuracy"]
    lost = old["value"] - new["value"]
    if lost <= max(old["standard_error"], new["standard_error"]):
        return None
    return Signature(
        name="the generator got worse",
        evidence=f"one sample: {old['value']:.3f} before, {new['value']:.3f} after",
        remedy="A larger kl_weight, a smaller blend, LoRA, or a lower learning rate.",
    )
