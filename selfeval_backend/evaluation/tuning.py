"""Choose a policy on one half of the prompts, and say what it is worth on the other.

The cheapest of a thousand policies on some prompts looks better there than it is; so what was
chosen on one half is measured on prompts that had no say in it, and nothing is promised that the
interval there does not show.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.methods import (
    Method,
    all_at_once,
    best_of_n_name,
    bounds,
)
from selfeval_backend.evaluation.table import MethodSummary, ResultTable, replay_table
from selfeval_backend.samples.records import Recording, RecordingInfo
from selfeval_backend.settings import SAMPLING_NAMES, Settings, resolve_settings

__all__ = [
    "ANNEALING",
    "Annealing",
    "Choice",
    "Found",
    "Goal",
    "GoalKind",
    "choose_policy",
    "find_policy",
    "half_places",
    "policy_of",
    "pruning_candidates",
    "split_halves",
]

GoalKind = Literal["keep_quality", "max_tokens_per_prompt", "max_samples_mean"]

Annealing = Literal["annealed", "constant"]
ANNEALING: tuple[Annealing, ...] = ("annealed", "constant")

MIN_PROMPTS = 20
"""Of each half: below, an interval says next to nothing."""

_THRESHOLDS = (
    *(0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    *(0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99),
)
_BATCHES: tuple[tuple[int, ...] | None, ...] = (None, (1, 4), (2,), (4,))
"""Cumulative counts; past the last one they double. None: from 1."""
_KEEP = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
_KEEP_OF_SEVERAL = (0.75, 0.5, 0.25, 0.125)
"""Where there are several checkpoints, ever fewer go on past each."""
_PRUNE_BELOW = (0.1, 0.3, 0.5)
_NUM_PRUNINGS = 8
"""Prunings that are tried together with adaptive sampling: the best ones alone."""

_ROUNDING = 1e-9

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the policy must do.

    Raises:
        ConfigurationError: The value is out of range.
    """

    kind: GoalKind
    value: float
    """keep_quality: share of the improvement of Best-of-N, the cheapest policy is sought;
    max_tokens_per_prompt and max_samples_mean: the mean that is not passed, the best one is."""

    def __post_init__(self) -> None:
        """Check the value."""
        if not (math.isfinite(self.value) and self.value > 0):
            raise ConfigurationError(self.kind, self.value, "a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The policy that meets a goal on the prompts that it was looked for on."""

    settings: Settings
    num_candidates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A policy, and what it is worth on prompts that had no say in it."""

    settings: Settings
    num_candidates: int
    num_chosen_on: int
    """Prompts of the half that it was chosen on."""
    num_reported_on: int
    reported: MethodSummary
    """On the other half."""
    reached: Estimate
    """On the other half, in the goal's own unit."""
    shown: bool
    """Whether the whole 95 % interval of `reached` meets the goal."""
    num_prompts_needed: int | None
    """About how many recorded prompts would show it; None: shown, or no number would."""


def half_places(num_prompts: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Return the places of two halves, drawn by lot; each in ascending order."""
    places = list(range(num_prompts))
    random.Random(f"halves/{seed}").shuffle(places)
    return sorted(places[: num_prompts // 2]), sorted(places[num_prompts // 2 :])


def split_halves(recording: Recording, *, seed: int) -> tuple[Recording, Recording]:
    """Return two halves of the prompts, drawn by lot.

    Raises:
        DatasetError: There are too few for two halves that say anything.
    """
    num_prompts = len(recording.prompts)
    if num_prompts < 2 * MIN_PROMPTS:
        raise DatasetError(
            f"the recording has {num_prompts} prompts, tuning needs at least {2 * MIN_PROMPTS}: "
            "one half to choose on, the other to report on. Record more with aic eval --n."
        )
    first, second = half_places(num_prompts, seed=seed)
    return recording.part(first), recording.part(second)


def choose_policy(
    recording: Recording, goal: Goal, *, seed: int, progress: Progress | None = None
) -> Choice:
    """Choose the policy that meets a goal on one half of the prompts, and report on the other.

    Args:
        recording: With checkpoints, if pruning is to be thought of.
        goal: What it must do.
        seed: Of the halves and of the resamples.
        progress: Told of replayed prompts of each stage.

    Raises:
        DatasetError: Too few prompts, no improvement to keep, or no policy meets the goal.
    """
    chosen_on, reported_on = split_halves(recording, seed=seed)
    found = find_policy(chosen_on, goal, seed=seed, progress=progress)
    return _report(reported_on, found, goal, len(chosen_on.prompts), seed)


def find_policy(
    recording: Recording,
    goal: Goal,
    *,
    seed: int,
    prune_at: Sequence[tuple[int, ...]] | None = None,
    annealing: Sequence[Annealing] = ANNEALING,
    progress: Progress | None = None,
) -> Found:
    """Find the policy that meets a goal on these prompts: on others it is worth less.

    Adaptive sampling and pruning are each tried alone, then together, with the best prunings. A
    policy counts as meeting `keep_quality` if it does so by one standard error.

    Args:
        recording: Prompts that are not reported on.
        goal: What it must do.
        seed: Of the resamples.
        prune_at: Lists of checkpoints; None: each that was recorded, and pairs of them.
        annealing: What adaptive sampling may do.
        progress: Told of replayed prompts of each stage.

    Raises:
        ConfigurationError: Nothing of `annealing` was recorded.
        DatasetError: No improvement to keep, or no policy meets the goal.
    """
    info = recording.info
    adaptive, prunings = _adaptive(info, annealing), pruning_candidates(info, prune_at)
    if not adaptive:
        raise ConfigurationError(
            "annealing", annealing, '"constant" among them: no annealed samples were recorded'
        )
    capped = [] if goal.kind == "keep_quality" else _capped(info, adaptive)
    alone = [*adaptive, *capped, *prunings]
    first = replay_table(recording, [*_bounds(info), *_named(alone)], progress=progress)
    if first.reward[:, 1].mean() <= first.reward[:, 0].mean():
        raise DatasetError(
            f"{best_of_n_name(info.num_samples)} is no better than one sample on these prompts: "
            "nothing to tune. Is the model trained to evaluate itself?"
        )
    together = [
        _pruned_as(pruning, settings)
        for pruning in _best_alone(first, prunings, goal)
        for settings in adaptive
    ]
    second = replay_table(recording, [*_bounds(info), *_named(together)], progress=progress)
    candidates = [*_candidates(first, alone, seed), *_candidates(second, together, seed)]
    return Found(settings=_pick(candidates, goal), num_candidates=len(candidates))


def _pruned_as(pruning: Settings, settings: Settings) -> Settings:
    return replace(
        settings,
        prune_at=pruning.prune_at,
        keep_fraction=pruning.keep_fraction,
        prune_below=pruning.prune_below,
    )


def policy_of(settings: Settings) -> dict[str, Any]:
    """Return what `selfeval.json` holds of these settings: what is not as by default.

    How tokens are drawn it always says, as the policy was tuned for just that.
    """
    fields = (
        "max_samples",
        "adaptive",
        "threshold",
        "batches",
        "annealing",
        *SAMPLING_NAMES,
        "prune_at",
        "keep_fraction",
        "prune_below",
        "accept_above",
    )
    plain = Settings()
    shown = settings if settings.prune_at else settings.unpruned()
    policy = {name: getattr(shown, name) for name in fields}
    said = ("threshold", *SAMPLING_NAMES)
    kept = {k: v for k, v in policy.items() if k in said or v != getattr(plain, k)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    settings: Settings
    quality: float
    tokens: float
    num_samples: float
    kept_surely: float
    """Improvement kept, less one standard error."""


def _drawn(info: RecordingInfo) -> Settings:
    """As the samples were."""
    return resolve_settings({"max_samples": info.num_samples, **info.sampling}, {})


def _bounds(info: RecordingInfo) -> tuple[Method, Method]:
    full = all_at_once(_drawn(info), temperature=info.temperature)
    return bounds(full, rotations=info.num_samples)


def _named(settings: Iterable[Settings]) -> list[Method]:
    return [Method(name=str(place), settings=s) for place, s in enumerate(settings)]


def _adaptive(info: RecordingInfo, annealing: Sequence[Annealing]) -> list[Settings]:
    """Adaptive sampling without pruning: thresholds, growth of batches, annealing."""
    drawn = _drawn(info)
    return [
        replace(drawn, threshold=threshold, batches=batches, annealing=kind)
        for kind in annealing
        if info.annealed or kind == "constant"
        for batches in _BATCHES
        if batches is None or batches[-1] < info.num_samples
        for threshold in _THRESHOLDS
    ]


def _capped(info: RecordingInfo, adaptive: Sequence[Settings]) -> list[Settings]:
    """The same with fewer samples at most: what a small budget is met by."""
    n = info.num_samples
    caps = sorted({1, 2, max(1, n // 4), max(1, n // 2)} - {n})
    return [replace(settings, max_samples=cap) for cap in caps for settings in adaptive]


def pruning_candidates(
    info: RecordingInfo, prune_at: Sequence[tuple[int, ...]] | None = None
) -> list[Settings]:
    """Return all samples at once, pruned at one checkpoint or more, relatively or absolutely.

    Args:
        info: Of the recording.
        prune_at: Lists of checkpoints; None: each that was recorded, and pairs of them.
    """
    plain = _bounds(info)[1].settings
    if prune_at is None:
        prune_at = _checkpoint_lists(info.checkpoints)
    found = [
        replace(plain, prune_at=places, keep_fraction=keep)
        for places in prune_at
        for keep in _falling_shares(len(places))
    ]
    return found + [
        replace(plain, prune_at=places, keep_fraction=1.0, prune_below=below)
        for places in prune_at
        for below in _PRUNE_BELOW
        if len(places) == 1
    ]


def _checkpoint_lists(places: Sequence[int]) -> list[tuple[int, ...]]:
    """Each place alone, and pairs of which the second is well behind the first."""
    pairs = [pair for pair in itertools.combinations(places, 2) if pair[1] >= 1.5 * pair[0]]
    return [*((place,) for place in places), *pairs]


def _falling_shares(num_checkpoints: int) -> list[tuple[float, ...]]:
    shares = _KEEP if num_checkpoints == 1 else _KEEP_OF_SEVERAL
    return list(itertools.combinations(shares, num_checkpoints))


def _candidates(table: ResultTable, settings: Sequence[Settings], seed: int) -> list[_Candidate]:
    """What each policy did; the first two columns are one sample and Best-of-N."""
    quality, tokens = table.reward.mean(0), table.tokens.mean(0)
    num_samples = table.num_samples.mean(0)
    kept, error = table.improvement_kept(one_sample=0, best_of_n=1, seed=seed)
    return [
        _Candidate(
            settings=chosen,
            quality=float(quality[place]),
            tokens=float(tokens[place]),
            num_samples=float(num_samples[place]),
            kept_surely=float(kept[place] - error[place]),
        )
        for place, chosen in enumerate(settings, 2)
    ]


def _best_alone(table: ResultTable, prunings: Sequence[Settings], goal: Goal) -> list[Settings]:
    """Return the cheapest prunings that keep what is asked for, or nine tenths where cost is."""
    quality, tokens = table.reward.mean(0), table.tokens.mean(0)
    share = goal.value if goal.kind == "keep_quality" else 0.9
    bar = quality[0] + min(share, 1.0) * (quality[1] - quality[0])
    first = len(table.methods) - len(prunings)
    good = [i for i in range(len(prunings)) if quality[first + i] >= bar]
    cheapest = sorted(good, key=lambda i: float(tokens[first + i]))
    return [prunings[i] for i in cheapest[:_NUM_PRUNINGS]]


def _pick(candidates: Sequence[_Candidate], goal: Goal) -> Settings:
    if goal.kind == "keep_quality":
        good = [c for c in candidates if c.kept_surely >= goal.value]
        if good:
            return min(good, key=lambda c: (c.tokens, -c.quality)).settings
        best = max(c.kept_surely for c in candidates)
        raise DatasetError(
            f"no policy keeps {goal.value:.0%} of the improvement by one standard error on these "
            f"prompts; the surest one keeps {best:.0%}. Ask for less, or record more prompts."
        )
    cost: Callable[[_Candidate], float] = (
        (lambda c: c.tokens) if goal.kind == "max_tokens_per_prompt" else (lambda c: c.num_samples)
    )
    affordable = [c for c in candidates if cost(c) <= goal.value]
    if not affordable:
        least = min(map(cost, candidates))
        raise DatasetError(
            f"no policy costs {goal.value:g} or less; the cheapest costs {least:.1f}"
        )
    return max(affordable, key=lambda c: (c.quality, -c.tokens)).settings


def _report(
    recording: Recording, found: Found, goal: Goal, num_chosen_on: int, seed: int
) -> Choice:
    one, full = _bounds(recording.info)
    table = replay_table(recording, [one, full, Method(name="chosen", settings=found.settings)])
    reported = table.summaries(one_sample=one.name, best_of_n=full.name, seed=seed)[-1]
    reached = _reached(table, reported, goal, seed)
    shown, times = _is_shown(reached, goal)
    num_reported_on = len(recording.prompts)
    return Choice(
        settings=found.settings,
        num_candidates=found.num_candidates,
        num_chosen_on=num_chosen_on,
        num_reported_on=num_reported_on,
        reported=reported,
        reached=reached,
        shown=shown,
        num_prompts_needed=(
            None if times is None else math.ceil((num_chosen_on + num_reported_on) * times)
        ),
    )


def _is_shown(reached: Estimate, goal: Goal) -> tuple[bool, float | None]:
    """Tell whether the whole interval meets the goal; if not, how many times the prompts would.

    An interval narrows with the root of their number.
    """
    is_floor = goal.kind == "keep_quality"
    bound = reached.low if is_floor else reached.high
    margin = reached.value - goal.value if is_floor else goal.value - reached.value
    half_width = abs(reached.value - bound)
    if half_width <= margin + _ROUNDING:
        return True, None
    return False, (half_width / margin) ** 2 if margin > 0 else None


def _reached(table: ResultTable, reported: MethodSummary, goal: Goal, seed: int) -> Estimate:
    match goal.kind:
        case "keep_quality":
            if reported.improvement_kept is None:
                raise DatasetError(
                    "Best-of-N improves nothing on the half that is reported on: record more"
                )
            return reported.improvement_kept
        case "max_tokens_per_prompt":
            return table.mean_of(table.tokens[:, -1], seed=seed)
        case "max_samples_mean":
            return table.mean_of(table.num_samples[:, -1], seed=seed)
