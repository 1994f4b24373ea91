"""How ``aic demo`` shows its comparison: as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from textwrap import shorten

from selfeval_backend.cli.console import plain_table, show, show_json, show_table
from selfeval_backend.cli.conversation import Answered
from selfeval_backend.evaluation.methods import BEST_OF_16
from selfeval_backend.evaluation.metrics import MethodReport, standard_error
from selfeval_backend.model import Answer

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


_SHOWN_LETTERS = 240
_NUM_SHOWN = 3
"""Instructions whose answers are shown: the first ones, whatever came of them."""


def print_json(
    rows: Sequence[MethodReport], talked: Sequence[Answered], *, model: str, n: int, seed: int
) -> None:
    """Print one JSON document on stdout; `talked` is empty if there was no conversation."""
    conversation = [
        {
            "prompt_id": each.item.prompt_id,
            "prompt": each.item.prompt,
            **{
                name: {**answer.summary(), "text": answer.text, "right": each.right(answer)}
                for name, answer in (("one", each.one), ("adaptive", each.adaptive))
            },
        }
        for each in talked
    ]
    document = {"model": model, "n": n, "seed": seed, "methods": [asdict(row) for row in rows]}
    show_json({**document, "conversation": conversation})


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


def print_conversation(talked: Sequence[Answered], *, model: str, seed: int) -> None:
    """Print how often two ways of answering keep to an instruction, and some of the answers."""
    table = plain_table()
    table.add_column("answers", no_wrap=True)
    for name in ("all kept", "mean\nsamples", "generated\ntokens", "self-evaluation\ntokens"):
        table.add_column(name, justify="right", no_wrap=True)
    ways = {"one sample": [t.one for t in talked], "adaptive": [t.adaptive for t in talked]}
    for name, answers in ways.items():
        kept = [float(t.right(a)) for t, a in zip(talked, answers, strict=True)]
        table.add_row(name, *_talk_cells(kept, answers))
    show(f"\n{model}: {len(talked)} instructions, seed {seed}\n")
    show_table(table)
    if all(answer.level == "unknown" for answer in ways["adaptive"]):
        show(f"\nNothing is known of {model}'s self-evaluation: adaptive is its greedy sample.")
    for each in talked[:_NUM_SHOWN]:
        show(f"\n> {each.item.prompt}\n")
        for name, answer in (("one sample", each.one), ("adaptive", each.adaptive)):
            verdict = "all kept" if each.right(answer) else "not all kept"
            show(
                f"{name}, {verdict}{_confidence(answer)}: {shorten(answer.text, _SHOWN_LETTERS)}\n"
            )


def _talk_cells(kept: Sequence[float], answers: Sequence[Answer]) -> tuple[str, ...]:
    error = standard_error(kept)
    outcomes = [answer.outcome for answer in answers]
    return (
        f"{fmean(kept):.3f}" + ("" if error is None else f" ± {error:.3f}"),
        f"{fmean(len(outcome.samples) for outcome in outcomes):.2f}",
        f"{sum(outcome.usage.generated_tokens for outcome in outcomes):,}",
        f"{sum(outcome.usage.self_evaluation_tokens for outcome in outcomes):,}",
    )


def _confidence(answer: Answer) -> str:
    confidence = answer.outcome.confidence
    return "" if confidence is None else f", confidence {confidence:.3f}"
