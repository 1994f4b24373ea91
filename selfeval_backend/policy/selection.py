"""Which sample to give back."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.types import Sample

__all__ = ["select_best"]


def select_best(samples: Sequence[Sample]) -> Sample | None:
    """Return the finished sample with the highest prob_win_or_tie, or None where none finished.

    Ties go to the higher raw probability (a calibration may map several to one value), then to the
    earlier sample. A sample that was never evaluated comes after all that were, and one that is not
    of the form that was asked for after all that are.

    Source: arXiv 2410.02725, section 3.
    """
    finished = [s for s in samples if s.finished]
    return max(finished, key=_rank) if finished else None


def _rank(sample: Sample) -> tuple[bool, float, float, int]:
    evaluation, usable = sample.evaluation, sample.valid is not False
    if evaluation is None:
        return (usable, -1.0, -1.0, -sample.index)
    return (
        usable,
        evaluation.prob_win_or_tie,
        evaluation.raw_prob_win_or_tie,
        -sample.index,
    )
