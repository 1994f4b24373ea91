"""Every method that a recording can be replayed under, and settings of them for plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.methods import DEFAULT_PRUNE_AT, Method, own_methods
from selfeval_backend.evaluation.rivals import (
    AdaptiveConsistency,
    DeepConfidence,
    EarlyStoppingConsistency,
    MajorityVote,
    MeanLogprob,
    Oracle,
    RandomChoice,
    Rival,
    SelfCertainty,
    UntrainedQuestion,
    WeightedVote,
)
from selfeval_backend.samples.records import Recording, RecordingInfo
from selfeval_backend.settings import Settings, resolve_settings

__all__ = [
    "THRESHOLDS",
    "Catalogue",
    "catalogue",
    "check_names",
    "choose",
    "sweep",
]

THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.985, 0.99)

_FINE_THRESHOLDS = (*(percent / 100 for percent in range(50, 99)), 0.985, 0.99)
"""Calibrated probabilities come in steps: between two of these there may be one that pays."""

_RIVALS: Mapping[str, Rival] = {
    "oracle": Oracle(),
    "random choice": RandomChoice(),
    "majority vote": MajorityVote(),
    "mean log-probability": MeanLogprob(),
    "self-certainty": SelfCertainty(),
    "untrained question": UntrainedQuestion(),
    "adaptive-consistency": AdaptiveConsistency(),
    "early-stopping consistency": EarlyStoppingConsistency(),
    "DeepConf": DeepConfidence(),
    "weighted vote": WeightedVote(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What can be replayed on a recording, and what cannot."""

    methods: tuple[Method, ...]
    left_out: Mapping[str, str]
    """Names of methods, and what the recording lacks for them."""


def catalogue(recording: Recording) -> Catalogue:
    """Return every method at its own settings, in the order in which they are shown.

    This project's own are those of `own_methods`, as the model was tuned.
    """
    info = recording.info
    own = _own_methods(info)
    rivals = [
        Method(name=name, settings=_all_at_once(info), rival=rival)
        for name, rival in _RIVALS.items()
    ]
    rivals.append(
        Method(
            name="adaptive weighted vote",
            settings=_tuned(info, prune=False),
            rival=WeightedVote(),
        )
    )
    lacks = {m.name: _lacks(recording, m.rival) for m in rivals}
    return Catalogue(
        methods=(*own, *(m for m in rivals if not lacks[m.name])),
        left_out={name: what for name, what in lacks.items() if what},
    )


def choose(methods: Sequence[Method], names: str, *, always: Sequence[str]) -> tuple[Method, ...]:
    """Return the methods of these names, in their own order.

    Args:
        methods: To choose from.
        names: "all", or names with commas between them.
        always: Names that are chosen too: what the others are compared with.

    Raises:
        ConfigurationError: A name is unknown.
    """
    if names.strip() == "all":
        return tuple(methods)
    wanted = {name.strip() for name in names.split(",")} - {""}
    known = {method.name for method in methods}
    if unknown := sorted(wanted - known):
        raise ConfigurationError("methods", unknown[0], f'"all", or of {", ".join(known)}')
    return tuple(m for m in methods if m.name in wanted | set(always))


def check_names(names: str, *, num_samples: int) -> None:
    """Refuse names of methods that no recording has.

    Raises:
        ConfigurationError: A name is unknown.
    """
    full = Settings(max_samples=num_samples, adaptive=False)
    own = own_methods(full, Settings(max_samples=num_samples, prune_at=DEFAULT_PRUNE_AT))
    known = {"all", *(method.name for method in own), *_RIVALS, "adaptive weighted vote"}
    for name in (part.strip() for part in names.split(",")):
        if name not in known:
            raise ConfigurationError("methods", name, f"one of {', '.join(sorted(known))}")


def _all_at_once(info: RecordingInfo, num_samples: int | None = None) -> Settings:
    return resolve_settings(
        {
            "max_samples": num_samples or info.num_samples,
            "adaptive": False,
            "annealing": "constant",
            "max_tokens": info.max_tokens,
            **info.sampling,
        },
        {},
    )


def _tuned(info: RecordingInfo, *, prune: bool) -> Settings:
    """What the model was tuned for, as far as the recording has it."""
    drop = {"max_samples", "max_tokens", "adaptive", "seed"}
    policy = {k: v for k, v in info.selfeval.policy.items() if k not in drop}
    settings = resolve_settings({"max_samples": info.num_samples, **info.sampling}, policy)
    if not info.annealed:
        settings = replace(settings, annealing="constant")
    if prune and not settings.prune_at:
        places = tuple(at for at in DEFAULT_PRUNE_AT if at in info.checkpoints)
        return replace(settings.unpruned(), prune_at=places, keep_fraction=0.5)
    if not prune:
        return settings.unpruned()
    return settings


def _own_methods(info: RecordingInfo) -> tuple[Method, ...]:
    tuned = _tuned(info, prune=True)
    if not set(tuned.prune_at) <= set(info.checkpoints):
        tuned = tuned.unpruned()
    return own_methods(
        _all_at_once(info), tuned, rotations=info.num_samples, annealed=info.annealed
    )


def _lacks(recording: Recording, rival: Rival | None) -> str:
    """Return what the recording lacks for a rival; "" for nothing."""
    assert rival is not None, "asked of rivals alone"
    constant = [
        s
        for p in recording.prompts
        for s in p.samples
        if s.temperature == recording.info.temperature
    ]
    has = {"reward"}
    if any(s.answer is not None for s in constant):
        has.add("answer")
    for name in ("sum_logprob", "token_confidences", "self_certainty", "untrained_logprobs"):
        if all(getattr(s, name) is not None for s in constant):
            has.add(name)
    return ", ".join(sorted(rival.needs - has))


def sweep(recording: Recording) -> tuple[Method, ...]:
    """Return settings of every family from cheap to costly: for Pareto fronts and budgets."""
    info = recording.info
    counts = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if n <= info.num_samples]
    swept = [*_own_sweep(info, counts)]
    fixed: Mapping[str, Callable[[], Rival]] = {
        "oracle": Oracle,
        "majority vote": MajorityVote,
        "mean log-probability": MeanLogprob,
        "self-certainty": SelfCertainty,
        "untrained question": UntrainedQuestion,
        "weighted vote": WeightedVote,
    }
    for family, make in fixed.items():
        swept += [
            Method(
                name=f"{family}, n={n}",
                family=family,
                settings=_all_at_once(info, n),
                rival=make(),
            )
            for n in counts
        ]
    for family, rivals in _stopping_rivals().items():
        swept += [
            Method(
                name=f"{family}, {setting}",
                family=family,
                settings=_all_at_once(info),
                rival=rival,
            )
            for setting, rival in rivals.items()
        ]
    return tuple(m for m in swept if m.rival is None or not _lacks(recording, m.rival))


def _own_sweep(info: RecordingInfo, counts: Sequence[int]) -> list[Method]:
    swept = [
        Method(
            name=f"best of n by self-evaluation, n={n}",
            family="best of n by self-evaluation",
            settings=_all_at_once(info, n),
            evaluate=n > 1,
        )
        for n in counts
    ]
    adaptive, both = _tuned(info, prune=False), _tuned(info, prune=True)
    kinds = {"adaptive, constant temperature": replace(adaptive, annealing="constant")}
    if info.annealed:
        kinds["adaptive"] = adaptive
    if both.prune_at and set(both.prune_at) <= set(info.checkpoints):
        kinds["adaptive+pruning"] = both
    for family, settings in kinds.items():
        swept += [
            Method(
                name=f"{family}, threshold {threshold}",
                family=family,
                settings=replace(settings, threshold=threshold),
            )
            for threshold in _FINE_THRESHOLDS
        ]
    return swept


def _stopping_rivals() -> dict[str, dict[str, Rival]]:
    return {
        "adaptive-consistency": {
            f"threshold {t}": AdaptiveConsistency(threshold=t)
            for t in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
        },
        "early-stopping consistency": {
            f"window {w}": EarlyStoppingConsistency(window=w) for w in (2, 3, 4, 5, 8)
        },
        "DeepConf": {
            f"keep {keep}, consensus {consensus}": DeepConfidence(keep=keep, consensus=consensus)
            for keep in (0.1, 0.5, 0.9)
            for consensus in (0.6, 0.8, 0.95)
        },
    }
