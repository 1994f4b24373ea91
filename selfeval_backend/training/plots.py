"""The report's plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from selfeval_backend.evaluation.quality import Prediction
from selfeval_backend.files import replacing

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["draw_history", "draw_pair_accuracy", "draw_reliability"]


@contextmanager
def _axes(path: Path) -> Iterator[Any]:
    figure, axes = plt.subplots(figsize=(5, 5), dpi=100, layout="constrained")
    try:
        yield axes
        with replacing(path) as partial:
            figure.savefig(partial, format=path.suffix.removeprefix("."))
    finally:
        plt.close(figure)


def draw_reliability(path: Path, curves: Mapping[str, Sequence[Prediction]]) -> None:
    """Draw what was said against what was true, one line for each cut, equal counts a point."""
    with _axes(path) as axes:
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name, items in curves.items():
            ordered = sorted(items, key=lambda p: p.prob_win_or_tie)
            bins = [b for b in np.array_split(np.arange(len(ordered)), 12) if len(b)]
            said = [np.mean([ordered[i].prob_win_or_tie for i in b]) for b in bins]
            true = [np.mean([ordered[i].target for i in b]) for b in bins]
            axes.plot(said, true, marker="o", markersize=3, linewidth=1, label=name)
        axes.set(xlabel="prob_win_or_tie, said", ylabel="share of fresh samples not better, true")
        axes.set(xlim=(0, 1), ylim=(0, 1), title="Reliability on held-out prompts")
        axes.legend(title="response cut at", frameon=False)


def draw_pair_accuracy(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw within-prompt pair accuracy by position, with its interval; whole responses dashed."""
    with _axes(path) as axes:
        found = {int(name): row["pair_accuracy"] for name, row in rows.items() if name.isdigit()}
        at = sorted(found)
        values = np.array([[found[n][key] for key in ("value", "low", "high")] for n in at])
        if at:
            axes.plot(at, values[:, 0], marker="o", markersize=3, linewidth=1)
            axes.fill_between(at, values[:, 1], values[:, 2], alpha=0.2)
        axes.axhline(rows["whole"]["pair_accuracy"]["value"], linestyle="--", linewidth=1)
        axes.axhline(0.5, color="0.7", linewidth=1)
        axes.set(xlabel="generated tokens", ylabel="pairs of one prompt in order", ylim=(0.4, 1))
        axes.set(title="Pair accuracy (dashed: whole responses)")


def draw_history(path: Path, phases: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw label loss, KL and pair accuracy over the steps of all phases."""
    names = ("label", "kl", "eval_pair_accuracy_whole", "eval_pair_accuracy_half")
    with _axes(path) as axes:
        offset = 0.0
        for place, (phase, lines) in enumerate(phases.items()):
            for color, name in enumerate(names):
                points = [(offset + x["step"], x[name]) for x in lines if name in x]
                label = name.removeprefix("eval_") if place == 0 else None
                if points:
                    axes.plot(*zip(*points, strict=True), color=f"C{color}", label=label)
            axes.axvline(offset, color="0.7", linewidth=1)
            axes.text(offset, 1.02, f" {phase}", fontsize=8, transform=axes.get_xaxis_transform())
            offset += max((line["step"] for line in lines), default=0)
        axes.set(xlabel="steps")
        axes.legend(frameon=False)
