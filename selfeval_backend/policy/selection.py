"""Which sample to give back, and from when on that is certain."""

from __future__ import annotations

from collections.abc import Sequence

from selfeval_backend.types import RunState, Sample

__all__ = ["certain_winner", "select_best"]


def select_best(samples: Sequence[Sample], *, accepted: int | None = None) -> Sample | None:
    """Return the finished sample with the highest prob_win_or_tie, or None where none finished.

    Ties go to the higher raw probability (a calibration may map several to one value), then to the
    earlier sample. A sample that was never evaluated comes after all that were; one that was cut
    off, where training held no such ones, after all that are whole; and one that is not of the form
    that was asked for after all that are.

    Source: arXiv 2410.02725, section 3.

    Args:
        samples: All samples of a run.
        accepted: Index of the one that was accepted; it is returned if it has finished and is of
            the form that was asked for. It may be cut off: it was accepted for what it was while it
            ran, which training did hold, and its text may have been shown.
    """
    if accepted is not None and samples[accepted].finished and samples[accepted].valid is not False:
        return samples[accepted]
    finished = [s for s in samples if s.finished]
    return max(finished, key=_rank) if finished else None


def certain_winner(state: RunState) -> int | None:
    """Return the index of the running sample that is the answer if it finishes, or None.

    It was accepted, or it is the only one that can still win: no more may be drawn, none has
    finished, and no other one runs.
    """
    if state.accepted is not None:
        return state.accepted if state.samples[state.accepted].status == "running" else None
    if len(state.samples) < state.limits.max_samples or state.finished or len(state.running) != 1:
        return None
    return state.running[0].index


def _rank(sample: Sample) -> tuple[bool, bool, float, float, int]:
    evaluation = sample.evaluation
    probs = (
        (-1.0, -1.0)
        if evaluation is None
        else (evaluation.prob_win_or_tie, evaluation.raw_prob_win_or_tie)
    )
    return (sample.valid is not False, not sample.beyond_training, *probs, -sample.index)
