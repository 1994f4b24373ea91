"""Plots that can be read at a glance, of evaluations and of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfeval_backend.errors import MissingDependencyError
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.quality import Prediction
from selfeval_backend.files import replacing, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "draw_curves", "draw_reliability"]

_SUFFIXES = (".svg", ".png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a plot."""

    name: str
    x: tuple[float, ...]
    y: tuple[Estimate | float, ...]
    """An estimate is drawn with its interval."""
    emphasised: bool = False


@contextmanager
def _axes(stem: Path, *, title: str, x: str, y: str, suffixes: Sequence[str]) -> Iterator[Axes]:
    """Yield axes; write a file of each suffix at the end."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="eval") from error
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    yield axes
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    # The same bytes for the same numbers: no date, no random ids.
    with mpl.rc_context({"svg.hashsalt": "aic", "svg.fonttype": "none"}):
        for suffix in suffixes:
            undated = {"Date": None} if suffix == ".svg" else None
            with replacing(stem.with_suffix(suffix)) as partial:
                figure.savefig(partial, format=suffix[1:], dpi=110, metadata=undated)


def draw_curves(
    stem: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = False,
    lines: Mapping[str, float] | None = None,
    starts: Mapping[str, float] | None = None,
    suffixes: Sequence[str] = _SUFFIXES,
) -> None:
    """Draw lines with their intervals.

    Args:
        stem: Path without suffix.
        curves: At least one.
        title: Of the plot.
        x: Label.
        y: Label.
        log_x: Powers of two on the x axis.
        lines: Names and heights of horizontal lines.
        starts: Names of stretches of the x axis, and where they begin.
        suffixes: Of the files: ``.svg``, ``.png``.
    """
    with _axes(stem, title=title, x=x, y=y, suffixes=suffixes) as axes:
        for place, curve in enumerate(curves):
            _draw(axes, curve, colour=f"C{place % 10}", marker="os^Dv<>ph*X"[place % 11])
        for name, height in (lines or {}).items():
            axes.axhline(height, color="grey", linestyle="--", linewidth=1)
            axes.annotate(
                name,
                (0.99, height),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize="small",
                color="grey",
            )
        for name, start in (starts or {}).items():
            axes.axvline(start, color="grey", linewidth=1)
            axes.annotate(
                f" {name}",
                (start, 0.99),
                xycoords=("data", "axes fraction"),
                va="top",
                fontsize="small",
                color="grey",
            )
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if len(curves) < 7:
            axes.legend(fontsize="small")
        else:
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _draw(axes: Axes, curve: Curve, *, colour: str, marker: str) -> None:
    values = [y.value if isinstance(y, Estimate) else y for y in curve.y]
    style: dict[str, Any] = {"linewidth": 2.2 if curve.emphasised else 1.2, "markersize": 4}
    axes.plot(curve.x, values, color=colour, marker=marker, label=curve.name, **style)
    if all(isinstance(y, Estimate) for y in curve.y):
        low = [y.low for y in curve.y if isinstance(y, Estimate)]
        high = [y.high for y in curve.y if isinstance(y, Estimate)]
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.12, linewidth=0)


def draw_reliability(
    stem: Path,
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    title: str,
    num_bins: int = 10,
    suffixes: Sequence[str] = _SUFFIXES,
) -> None:
    """Draw what was said against what was true, in bins of equal width.

    Args:
        stem: Path without suffix.
        predictions: By where they were made.
        title: Of the plot.
        num_bins: Of [0, 1]; a bin of fewer than 20 predictions is left out.
        suffixes: Of the files: ``.svg``, ``.png``.
    """
    with _axes(
        stem,
        title=title,
        x="prob_win_or_tie, as predicted",
        y="share that won or tied",
        suffixes=suffixes,
    ) as axes:
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        for name, items in predictions.items():
            bins: list[list[Prediction]] = [[] for _ in range(num_bins)]
            for item in items:
                bins[min(int(item.prob_win_or_tie * num_bins), num_bins - 1)].append(item)
            filled = [group for group in bins if len(group) >= 20]
            axes.plot(
                [sum(p.prob_win_or_tie for p in group) / len(group) for group in filled],
                [sum(p.target for p in group) / len(group) for group in filled],
                marker="o",
                markersize=4,
                label=name,
            )
        axes.legend(fontsize="small")
