"""Tables and figures as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from selfeval_backend.evaluation.bootstrap import Estimate

__all__ = ["markdown_table", "percent", "plain", "share", "signed"]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, with a line's end behind it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def percent(estimate: Estimate | None) -> str:
    """Return a share and its interval; "-" for none."""
    if estimate is None:
        return "-"
    value, low, high = (round(100 * x) + 0 for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"


def share(estimate: Estimate) -> str:
    """Return a share without its interval."""
    return f"{round(100 * estimate.value) + 0} %"


def signed(estimate: Estimate) -> str:
    """Return a difference and its interval."""
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def plain(estimate: Estimate) -> str:
    """Return a figure and its interval; "-" for what is no number."""
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
