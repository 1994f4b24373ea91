"""Plots as files: what is drawn stands in them as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.plots import Curve, draw_curves, draw_reliability
from selfeval_backend.evaluation.quality import Prediction

pytestmark = pytest.mark.slow


def said(prob: float, count: int) -> list[Prediction]:
    return [
        Prediction(prompt=0, logit=0.0, prob_win_or_tie=prob, target=1.0, reward=1.0)
        for _ in range(count)
    ]


def test_curves_lines_and_starts_are_named(tmp_path: Path) -> None:
    curve = Curve(name="loss", x=(0, 1, 2), y=(3.0, 2.0, 1.0))

    draw_curves(
        tmp_path / "deep" / "history",
        [curve],
        title="Training",
        x="steps",
        y="nats",
        lines={"chance": 0.5},
        starts={"contrast": 0.0, "preferences": 1.5},
    )

    text = (tmp_path / "deep" / "history.svg").read_text(encoding="utf-8")
    for name in ("loss", "Training", "steps", "nats", "chance", "contrast", "preferences"):
        assert f"{name}</text>" in text


@pytest.mark.parametrize("suffixes", [(".png",), (".svg",), (".svg", ".png")])
def test_files_are_those_that_were_asked_for(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    draw_reliability(tmp_path / "a", {"end": said(0.7, 30)}, title="a", suffixes=suffixes)
    draw_curves(
        tmp_path / "b",
        [Curve(name="c", x=(1.0,), y=(Estimate(value=0.5, low=0.4, high=0.6),))],
        title="b",
        x="x",
        y="y",
        suffixes=suffixes,
    )

    expected = {f"{stem}{suffix}" for stem in "ab" for suffix in suffixes}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_where_nothing_was_measured_the_plot_is_empty(tmp_path: Path) -> None:
    draw_reliability(tmp_path / "a", {"end": [], "16 tokens": said(0.7, 3)}, title="a")
    draw_curves(tmp_path / "b", [Curve(name="c", x=(), y=())], title="b", x="x", y="y")

    assert len(list(tmp_path.glob("*.png"))) == 2
