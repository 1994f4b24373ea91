"""Choose the policy that ships with a model, on rollouts that are not reported on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.metrics import PromptResult, improvement_kept
from selfeval_backend.evaluation.replaying import replay
from selfeval_backend.rollouts import Rollout
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings

__all__ = ["Tuned", "mean_tokens", "only_annealed", "only_on_policy", "tune_policy"]

Log = Callable[[str], None]

_THRESHOLDS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The chosen settings."""

    threshold: float
    prune_at: tuple[int, ...]
    """Empty where no pruning keeps enough: then the model is better off without."""
    keep_fraction: tuple[float, ...]


def only_on_policy(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return the rollouts with their temperature-1 samples alone: what Best-of-N draws."""
    return [_filtered(r, annealed=False) for r in rollouts]


def only_annealed(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return the rollouts with their annealed samples alone: what adaptive sampling draws."""
    return [_filtered(r, annealed=True) for r in rollouts]


def _filtered(rollout: Rollout, *, annealed: bool) -> Rollout:
    samples = tuple(s for s in rollout.samples if (s.temperature < 1.0) == annealed)
    return replace(rollout, samples=samples)


def mean_tokens(results: Sequence[PromptResult]) -> float:
    """Return generated and self-evaluation tokens, a prompt."""
    return fmean(r.generated_tokens + r.self_evaluation_tokens for r in results)


def tune_policy(
    rollouts: Sequence[Rollout],
    evaluator: SelfEvaluator,
    *,
    prune_at: Sequence[tuple[int, ...]],
    max_samples: int,
    keep_improvement: float,
    log: Log,
) -> Tuned:
    """Choose the cheapest pruning, then the cheapest threshold, that keep enough improvement.

    Args:
        rollouts: With `max_samples` annealed and as many temperature-1 samples a prompt.
        evaluator: Calibrated.
        prune_at: Candidate lists of checkpoints; label log-probabilities are recorded there.
        max_samples: N of Best-of-N.
        keep_improvement: Share of the Best-of-N improvement that a choice must keep here.
        log: Told of what was found.

    Raises:
        DatasetError: No threshold keeps enough.
    """
    on_policy, annealed = only_on_policy(rollouts), only_annealed(rollouts)
    all_of_them = Settings(max_samples=max_samples, adaptive=False)
    floor = fmean(s.reward for r in on_policy for s in r.samples)
    ceiling = fmean(r.reward for r in replay(on_policy, all_of_them, evaluator))

    def cheapest(data: Sequence[Rollout], candidates: Iterable[Settings]) -> Settings | None:
        found = []
        for settings in candidates:
            results = replay(data, settings, evaluator)
            quality = fmean(r.reward for r in results)
            kept = improvement_kept(quality, one_sample=floor, best_of_n=ceiling) or 0.0
            tokens = mean_tokens(results)
            log(
                f"tune: prune_at {settings.prune_at} keep {settings.keep_fraction} adaptive "
                f"{settings.adaptive} threshold {settings.threshold}: kept {kept:.3f} "
                f"tokens {tokens:.0f}"
            )
            if kept >= keep_improvement:
                found.append((tokens, settings))
        return min(found, key=lambda item: item[0])[1] if found else None

    pruned = cheapest(
        on_policy,
        (
            replace(all_of_them, prune_at=places, keep_fraction=keep)
            for places in prune_at
            for keep in _keep_fractions(len(places))
        ),
    )
    if pruned is None:
        log("tune: no pruning keeps enough of the improvement: none is chosen")
        pruned = replace(all_of_them, prune_at=(), keep_fraction=())
    base = replace(pruned, adaptive=True)
    adaptive = cheapest(annealed, (replace(base, threshold=value) for value in _THRESHOLDS))
    if adaptive is None:
        raise DatasetError(
            f"no threshold up to {_THRESHOLDS[-1]} keeps {keep_improvement:.1%} of the improvement "
            f"of Best-of-{max_samples} on these {len(rollouts)} prompts"
        )
    assert isinstance(pruned.keep_fraction, tuple), "one for each checkpoint, as asked for"
    return Tuned(
        threshold=adaptive.threshold, prune_at=pruned.prune_at, keep_fraction=pruned.keep_fraction
    )


def _keep_fractions(num_checkpoints: int) -> Iterable[tuple[float, ...]]:
    """Falling shares of the batch that go on past each checkpoint."""
    shares = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
    return (
        keep
        for keep in itertools.product(shares, repeat=num_checkpoints)
        if all(a > b for a, b in itertools.pairwise(keep))
    )
