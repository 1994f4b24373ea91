"""The paper's two figures, what this model reaches of them, and what any policy could.

Every setting is chosen on one half of the prompts and shown on the other. The bounds are no
policies: they look at rewards. Where they fall short of a mark, no setting reaches it.

Axes: P prompts, M methods, N annealed samples of a prompt in the order of drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selfeval_backend.evaluation.catalogue import THRESHOLDS, catalogue
from selfeval_backend.evaluation.markdown import markdown_table, percent, share
from selfeval_backend.evaluation.methods import ONE_SAMPLE, Method, best_of_n_name
from selfeval_backend.evaluation.table import MethodSummary, ResultTable, replay_table
from selfeval_backend.evaluation.tuning import half_places, pruning_candidates
from selfeval_backend.samples.records import Recording, RecordingInfo
from selfeval_backend.settings import Settings

__all__ = ["RetryBounds", "paper_claims_section", "retry_bounds"]

Array = NDArray[np.float64]

MARK_KEPT, MARK_SAMPLES, MARK_SAVED = 0.74, 1.2, 0.56
"""Source: arXiv 2410.02725, abstract."""
_LITTLE_LOSS, _SOME_LOSS = 0.97, 0.9

_OWN = ("adaptive", "adaptive+pruning")
_BATCHES = (None, (1, 3), (1, 4))
_ABSOLUTE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_SHARES = (0.5, 0.375, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBounds:
    """Most that may be right in the mean, if retries are as few as said."""

    first: float
    """Share of first samples that are right."""
    judge: float
    """If it is known of every sample whether it is right, and of every prompt how often samples of
    it are; not which ones will be."""
    seer: float
    """If that is known too."""


def retry_bounds(rewards: Array, *, mean_samples: float) -> RetryBounds:
    """Return bounds for policies that begin with one sample of each prompt.

    Args:
        rewards: [P, N], each 0 or 1, in the order of drawing.
        mean_samples: A prompt, the first one included; at least 1.
    """
    num_prompts, num_samples = rewards.shape
    retries = rewards[rewards[:, 0] == 0.0, 1:]
    retries = retries[retries.any(1)]  # [W, N - 1]: of what a retry can mend
    # A judge retries until it is right; a retry of a prompt is right as often as its others.
    rate = retries.mean(1)
    success = 1.0 - (1.0 - rate) ** (num_samples - 1)
    budget = (mean_samples - 1.0) * num_prompts
    first = float(rewards[:, 0].mean())
    return RetryBounds(
        first=first,
        judge=first + _gained(success, success / rate, budget) / num_prompts,
        # A seer retries only what will be right, the quickest first.
        seer=first + _gained(np.ones(len(rate)), retries.argmax(1) + 1.0, budget) / num_prompts,
    )


def _gained(gains: Array, costs: Array, budget: float) -> float:
    """Return what a budget gains where it gains most for its cost; a part costs its part."""
    order = np.argsort(-gains / costs, kind="stable")
    before = np.cumsum(costs[order]) - costs[order]
    paid = np.clip((budget - before) / costs[order], 0.0, 1.0)
    return float((gains[order] * paid).sum())


def paper_claims_section(recording: Recording, *, seed: int) -> str:
    """Return the section of the page.

    Args:
        recording: With annealed samples and checkpoints.
        seed: Of the halves and resamples.

    Raises:
        DatasetError: There are too few prompts for two halves.
    """
    search = _Search.over(recording, seed)
    annealed = _annealed_rewards(recording)
    bounds = retry_bounds(annealed, mean_samples=MARK_SAMPLES)
    return (
        "## Against the paper's marks\n\n"
        f"Each setting was chosen among {search.num_candidates:,} on one half of "
        f"{len(recording.prompts)} problems, and is shown on the other half.\n\n"
        + markdown_table(("what", "the paper", "here"), _rows(search))
        + "\n"
        + _retries(search, bounds)
        + "\n"
        + _prunings_bound(recording, seed)
    )


def _rows(search: _Search) -> list[tuple[str, str, str]]:
    few = f"{MARK_SAMPLES} samples at most"
    return [
        (
            f"improvement kept at {few}",
            f"{MARK_KEPT:.0%}",
            search.most_kept(lambda t: t.num_samples.mean(0), MARK_SAMPLES),
        ),
        (
            f"improvement kept at the tokens of {few}",
            "-",
            search.most_kept(lambda t: t.tokens.mean(0) / t.tokens[:, 0].mean(), MARK_SAMPLES),
        ),
        (
            f"samples for {MARK_KEPT:.0%} of the improvement",
            f"{MARK_SAMPLES}",
            search.fewest_samples(MARK_KEPT),
        ),
        (
            f"tokens saved by pruning alone, {_LITTLE_LOSS:.0%} kept or more",
            f"{MARK_SAVED:.0%}",
            search.most_saved("pruning", _LITTLE_LOSS),
        ),
        (
            f"tokens saved by pruning alone, {_SOME_LOSS:.0%} kept or more",
            "-",
            search.most_saved("pruning", _SOME_LOSS),
        ),
        (
            f"tokens saved by whatever it takes, {_LITTLE_LOSS:.0%} kept or more",
            "-",
            search.most_saved(None, _LITTLE_LOSS),
        ),
        ("as the model ships, on all problems", "-", search.shipped()),
    ]


def _retries(search: _Search, bounds: RetryBounds) -> str:
    floor, ceiling = (summary.quality.value for summary in search.on_all[:2])
    judge, seer = ((bound - floor) / (ceiling - floor) for bound in (bounds.judge, bounds.seer))
    return (
        f"**What any policy could reach.** Of {MARK_SAMPLES} samples a prompt, "
        f"{MARK_SAMPLES - 1:.1f} are retries. The first sample is right for {bounds.first:.0%} of "
        f"all problems, Best-of-16 for {ceiling:.0%}. A judge that is never wrong, and knows how "
        f"often samples solve each problem, would keep {judge:.0%} of the improvement. One that "
        f"also saw which retries will succeed would keep {seer:.0%}.\n"
    )


def _prunings_bound(recording: Recording, seed: int) -> str:
    info = recording.info
    full = _bounds(recording)[1]
    methods = [
        Method(
            name=str(at),
            settings=replace(full.settings, prune_at=(at,), keep_fraction=1.0 / info.num_samples),
        )
        for at in info.checkpoints
    ]
    found = _summaries(replay_table(recording, [*_bounds(recording), *methods]), info, seed)[2:]
    return (
        "All samples run to the first checkpoint before any is pruned. No pruning saves more than "
        "one that lets a single sample go on there, however good its judgement. How good the "
        "judgement is at that point stands under *When to evaluate*.\n\n"
        + markdown_table(
            ("checkpoint", *(s.method for s in found)),
            [("tokens saved at most", *(share(s.tokens_saved) for s in found))],
        )
    )


def _annealed_rewards(recording: Recording) -> Array:
    temperature = recording.info.temperature
    return np.array(
        [
            [
                s.reward
                for s in sorted(prompt.samples, key=lambda s: s.index)
                if s.temperature < temperature
            ]
            for prompt in recording.prompts
        ]
    )


def _bounds(recording: Recording) -> tuple[Method, Method]:
    own = {method.name: method for method in catalogue(recording).methods}
    return own[ONE_SAMPLE], own[best_of_n_name(recording.info.num_samples)]


def _summaries(results: ResultTable, info: RecordingInfo, seed: int) -> tuple[MethodSummary, ...]:
    return results.summaries(
        one_sample=ONE_SAMPLE, best_of_n=best_of_n_name(info.num_samples), seed=seed
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Search:
    """Candidates on both halves; the first two methods are one sample and Best-of-N."""

    chosen_on: ResultTable
    shown: tuple[MethodSummary, ...]
    """Of the other half."""
    on_all: tuple[MethodSummary, ...]
    """Of both halves."""

    @classmethod
    def over(cls, recording: Recording, seed: int) -> _Search:
        bounds, info = _bounds(recording), recording.info
        own = [m for m in catalogue(recording).methods if m.name in _OWN][-1:]
        results = replay_table(recording, [*bounds, *_candidates(recording), *own])
        first, second = half_places(len(recording.prompts), seed=seed)
        return cls(
            chosen_on=results.rows(first),
            shown=_summaries(results.rows(second), info, seed),
            on_all=_summaries(results, info, seed),
        )

    @property
    def num_candidates(self) -> int:
        return len(self.shown) - 2

    def most_kept(self, cost: Callable[[ResultTable], Array], budget: float) -> str:
        quality = self.chosen_on.reward.mean(0)
        affordable = cost(self.chosen_on) <= budget
        return self._shown(int(np.where(affordable, quality, -np.inf).argmax()))

    def fewest_samples(self, kept: float) -> str:
        return self._shown(self._least(self.chosen_on.num_samples.mean(0), None, kept))

    def most_saved(self, family: str | None, kept: float) -> str:
        return self._shown(self._least(self.chosen_on.tokens.mean(0), family, kept))

    def _least(self, cost: Array, family: str | None, kept: float) -> int | None:
        """Return the cheapest candidate of a family that keeps enough on the first half."""
        quality = self.chosen_on.reward.mean(0)
        good = (quality - quality[0]) / (quality[1] - quality[0]) >= kept
        good &= [family in {None, method.family} for method in self.chosen_on.methods]
        good[:2] = False
        return int(np.where(good, cost, np.inf).argmin()) if good.any() else None

    def _shown(self, place: int | None) -> str:
        return "no setting" if place is None else _described(self.shown[place])

    def shipped(self) -> str:
        return _described(self.on_all[-1])


def _described(summary: MethodSummary) -> str:
    return (
        f"{percent(summary.tokens_saved)} saved, {percent(summary.improvement_kept)} kept, "
        f"{summary.mean_samples:.2f} samples ({summary.method})"
    )


def _candidates(recording: Recording) -> list[Method]:
    info = recording.info
    adaptive = [
        Settings(
            max_samples=info.num_samples,
            temperature=info.temperature,
            threshold=threshold,
            batches=batches,
            annealing=annealing,
        )
        for annealing in ("annealed", "constant")
        for batches in _BATCHES
        for threshold in THRESHOLDS
    ]
    prunings = pruning_candidates(info)
    both = [
        replace(settings, prune_at=(at,), keep_fraction=keep, prune_below=below)
        for at in info.checkpoints
        for keep, below in (*((1.0, b) for b in _ABSOLUTE), *((k, 0.0) for k in _SHARES))
        for settings in adaptive
        if settings.batches is None and settings.annealing == "annealed"
    ]
    families = {"adaptive": adaptive, "pruning": prunings, "both": both}
    return [
        Method(name=_name(settings), family=family, settings=settings)
        for family, found in families.items()
        for settings in found
    ]


def _name(settings: Settings) -> str:
    """Return what is not as by default, in words."""
    parts = []
    if settings.adaptive:
        parts.append(f"threshold {settings.threshold}")
        parts.append("" if settings.annealing == "annealed" else "constant temperature")
        parts.append("" if settings.batches is None else f"batches {settings.batches}")
    keep = settings.keep_fraction
    shares = keep if isinstance(keep, tuple) else (keep,) * len(settings.prune_at)
    for at, kept in zip(settings.prune_at, shares, strict=False):
        parts.append(f"{100 * kept:.3g} % go on past {at}" if kept < 1.0 else f"asked at {at}")
    if settings.prune_at and settings.prune_below:
        parts.append(f"those below {settings.prune_below} stop")
    return ", ".join(part for part in parts if part)
