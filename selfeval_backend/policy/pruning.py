"""Which running samples to stop at a checkpoint, and which one to accept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfeval_backend.types import Sample

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A number of generated tokens at which running samples are evaluated, and some are stopped.

    Source: arXiv 2410.02725, section 4: at 64 or 128 tokens, stop the worst 50-75 %. The absolute
    bounds are ours.
    """

    at: int
    """Generated tokens."""
    keep_fraction: float = 1.0
    """Of the batch's samples that were evaluated here, this share goes on (rounded up)."""
    prune_below: float = 0.0
    """Samples below it stop, whatever the others are."""
    accept_above: float | None = None
    """The best sample with at least this prob_win_or_tie is accepted; None: none is."""

    def to_accept(self, running: Sequence[Sample]) -> int | None:
        """Return the index of the sample to accept, or None.

        Ties go to the higher raw probability, then to the earlier sample.

        Args:
            running: Samples that stand at this checkpoint, each evaluated here.
        """
        if self.accept_above is None:
            return None
        best = max(running, key=_rank)
        return best.index if _prob_win_or_tie(best) >= self.accept_above else None

    def to_prune(
        self, running: Sequence[Sample], *, num_evaluated: int, must_keep_one: bool
    ) -> tuple[int, ...]:
        """Return the indices of the samples to stop.

        Args:
            running: Samples that stand at this checkpoint, each evaluated here.
            num_evaluated: Samples of the batch that were evaluated here, those stopped included.
            must_keep_one: Whether the run would be left with nothing if all were stopped.
        """
        ranked = sorted(running, key=lambda s: (-_prob_win_or_tie(s), s.index))
        room = math.ceil(self.keep_fraction * num_evaluated - 1e-9)
        kept = [s for s in ranked[:room] if _prob_win_or_tie(s) >= self.prune_below]
        if not kept and must_keep_one:
            kept = ranked[:1]
        kept_indices = {s.index for s in kept}
        return tuple(sorted(s.index for s in running if s.index not in kept_indices))


def _rank(sample: Sample) -> tuple[float, float, int]:
    assert sample.evaluation is not None, "accepted only after it was evaluated"
    evaluation = sample.evaluation
    return (evaluation.prob_win_or_tie, evaluation.raw_prob_win_or_tie, -sample.index)


def _prob_win_or_tie(sample: Sample) -> float:
    assert sample.evaluation is not None, "pruned only after it was evaluated"
    return sample.evaluation.prob_win_or_tie
