"""When a run is over."""

from __future__ import annotations

from selfeval_backend.types import RunState, StopReason

__all__ = ["is_confident", "reached_limit"]


def reached_limit(state: RunState) -> StopReason | None:
    """Return the limit on tokens or seconds that was reached, if one was."""
    limits = state.limits
    if limits.max_total_tokens is not None and state.usage.total_tokens >= limits.max_total_tokens:
        return "max_total_tokens"
    if limits.max_seconds is not None and state.elapsed_s >= limits.max_seconds:
        return "max_seconds"
    return None


def is_confident(state: RunState, threshold: float) -> bool:
    """Tell whether a finished sample that a run may end on has at least this prob_win_or_tie.

    One that was cut off, where training held no such ones, does not end a run while whole ones may
    still come.

    Source: arXiv 2410.02725, section 4.
    """
    return any(s.confidence is not None and s.confidence >= threshold for s in state.usable)
