"""How ``aic demo`` shows its comparison: as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer

from selfeval_backend.cli.console import console, plain_table
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


def print_json(rows: Sequence[MethodReport], *, model: str, n: int, seed: int) -> None:
    """Print one JSON document on stdout."""
    document = {"model": model, "n": n, "seed": seed, "methods": [asdict(row) for row in rows]}
    typer.echo(json.dumps(document, indent=1, allow_nan=False))


def print_table(rows: Sequence[MethodReport], *, model: str, n: int, seed: int) -> None:
    """Print a table on stdout, one row a method."""
    table = plain_table(f"{model}: {n:,} held-out problems, seed {seed}")
    table.add_column("method", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.method, *_cells(row))
    table.caption = (
        "Accuracy with its standard error over problems. Tokens of all problems together. "
        f"Kept: share of the improvement from one sample to {BEST_OF_16}. "
        f"Saved: share of its tokens, self-evaluations counted."
    )
    table.caption_justify = "left"
    console().print(table)


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
    return "-" if share is None else f"{share:.1%}"
