"""How ``aic eval`` shows its comparison: as tables or as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from selfeval_backend.cli.console import plain_table, show, show_json, show_table
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.comparison import OURS, Comparison
from selfeval_backend.evaluation.metrics import MethodRun
from selfeval_backend.evaluation.table import MethodSummary

__all__ = ["print_json", "print_table", "ranged"]

_COLUMNS = (
    "quality",
    "samples",
    "generated\ntokens",
    "self-eval.\ntokens",
    "improvement kept",
    "tokens saved",
)

_LEGEND = """\
Means over prompts. Quality: mean reward ± standard error. Brackets: 95 % intervals, paired, by
bootstrap over prompts. Improvement kept: share of what best-of-{n} improves on one sample. Tokens
saved: share of what best-of-{n} needs; every token is counted, self-evaluations too."""


def ranged(estimate: Estimate | None, *, percent: bool) -> str:
    """Return a figure with its interval; "-" for none."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    if percent:
        value, low, high = (
            f"{round(100 * x) + 0}" for x in (estimate.value, estimate.low, estimate.high)
        )
        return f"{value} % [{low}, {high}]"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def print_json(result: Comparison, runs: Mapping[str, MethodRun]) -> None:
    """Print one JSON document on stdout."""
    document: dict[str, Any] = {
        "recording": result.info.model_dump(mode="json", exclude={"selfeval"}),
        "num_prompts": result.num_prompts,
        "num_samples": result.num_samples,
        "num_errors": result.num_errors,
        "seed": result.seed,
        "methods": [asdict(summary) for summary in result.summaries],
        "differences": [asdict(difference) for difference in result.differences],
        "left_out": dict(result.left_out),
        "length_controlled": {k: asdict(rate) for k, rate in result.length_controlled.items()},
        "live": {
            name: {
                "quality": run.accuracy,
                "tokens": run.tokens / len(run.results),
                "num_errors": run.num_errors,
            }
            for name, run in runs.items()
        },
    }
    show_json(document)


def print_table(result: Comparison, runs: Mapping[str, MethodRun], *, folder: Path) -> None:
    """Print the comparison, how far other methods are behind, and what a real run gave."""
    info = result.info
    show(
        f"{info.model} on {info.task}: {result.num_prompts:,} prompts x {info.num_samples} "
        f"samples, seed {info.seed}; kept in {folder}"
    )
    show(f"Rewards by {info.scorer or 'what was not noted'}.\n")
    if result.num_errors:
        show(
            f"Without a reward, and counted as the worst ({result.worst_reward:g}): "
            f"{result.num_errors:,} of {result.num_samples:,} samples.\n"
        )
    table = _table("method", _COLUMNS)
    for row in result.summaries:
        table.add_row(row.method, *_cells(row))
    show_table(table)
    show("\n" + _LEGEND.format(n=info.num_samples))
    if result.differences:
        show(f"\nQuality of {OURS} minus that of:\n")
        behind = _table("method", ("difference",))
        for difference in result.differences:
            behind.add_row(difference.worse, ranged(difference.quality, percent=False))
        show_table(behind)
    if result.length_controlled:
        show("\nWin rate if responses were as long as the references:\n")
        rates = _table("method", ("length-controlled win rate",))
        for name, rate in result.length_controlled.items():
            rates.add_row(name, ranged(rate, percent=True))
        show_table(rates)
    for name, what in result.left_out.items():
        show(f"Left out: {name}; the recording has no {what}.")
    if runs:
        show("\nRun for real, compared with the replay:\n")
        show_table(_live(result, runs))
        for name, run in runs.items():
            if run.num_errors:
                show(f"{name}: {run.num_errors:,} answers without a reward count as the worst.")


def _table(first: str, columns: tuple[str, ...]) -> Table:
    table = plain_table()
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(row: MethodSummary) -> tuple[str, ...]:
    error = "" if math.isnan(row.standard_error) else f" ± {row.standard_error:.3f}"
    return (
        f"{row.quality.value:.3f}{error}",
        f"{row.mean_samples:.2f}",
        f"{row.generated_tokens:,.0f}",
        f"{row.self_evaluation_tokens:,.0f}",
        ranged(row.improvement_kept, percent=True),
        ranged(row.tokens_saved, percent=True),
    )


def _live(result: Comparison, runs: Mapping[str, MethodRun]) -> Table:
    table = _table("method", ("quality", "replayed", "tokens", "replayed"))
    replayed = {row.method: row for row in result.summaries}
    for name, run in runs.items():
        row = replayed[name]
        table.add_row(
            name,
            f"{run.accuracy:.3f}",
            f"{row.quality.value:.3f}",
            f"{run.tokens / len(run.results):,.0f}",
            f"{row.tokens:,.0f}",
        )
    return table
