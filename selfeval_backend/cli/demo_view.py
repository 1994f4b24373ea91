"""How ``aic demo`` shows its comparison: as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from selfeval_backend.cli.console import plain_table, show, show_json, show_table
from selfeval_backend.evaluation.methods import BEST_OF_16
from selfeval_backend.evaluation.metrics import MethodReport

__all__ = ["print_json", "print_table"]

_COLUMNS = (
    "accuracy",
    "mean\nsamples",
    "generated\ntokens",
    "self-evaluation\ntokens",
    "improvement\nkept",
    "tokens\nsaved",
    "seconds",
)

_LEGEND = f"""\
Accuracy with its standard error over problems. Tokens of all problems together.
Improvement kept: share of what {BEST_OF_16} improves on one sample. Tokens saved: share of what
{BEST_OF_16} needs, self-evaluations counted."""


def print_json(rows: Sequence[MethodReport], *, model: str, n: int, seed: int) -> None:
    """Print one JSON document on stdout."""
    document = {"model": model, "n": n, "seed": seed, "methods": [asdict(row) for row in rows]}
    show_json(document)


def print_table(rows: Sequence[MethodReport], *, model: str, n: int, seed: int) -> None:
    """Print a table on stdout, one row a method."""
    table = plain_table()
    table.add_column("method", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.method, *_cells(row))
    show(f"{model}: {n:,} held-out problems, seed {seed}\n")
    show_table(table)
    show(f"\n{_LEGEND}")


def _cells(row: MethodReport) -> tuple[str, ...]:
    error = "" if row.standard_error is None else f" ± {row.standard_error:.3f}"
    return (
        f"{row.accuracy:.3f}{error}",
        f"{row.mean_samples:.2f}",
        f"{row.generated_tokens:,}",
        f"{row.self_evaluation_tokens:,}",
        _percent(row.improvement_kept),
        _percent(row.tokens_saved),
        f"{row.seconds:.1f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{round(share, 3) + 0.0:.1%}"  # never -0.0%
