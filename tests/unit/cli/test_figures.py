"""``aic figures``, from kept samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Aic
from tests.unit.evaluation.test_results import made_runs


@pytest.mark.slow
def test_rebuilt_from_kept_samples(aic: Aic, tmp_path: Path) -> None:
    ran = aic("figures", "--runs", made_runs(tmp_path), "--out", tmp_path, "--no-sample")

    assert ran.status == 0, ran.stderr
    assert "results.md" in ran.stdout
    assert (tmp_path / "results" / "front.svg").is_file()


def test_nothing_to_rebuild_from(aic: Aic, tmp_path: Path) -> None:
    ran = aic("figures", "--runs", tmp_path / "nowhere", "--no-sample")

    assert ran.status == 2
    assert "no recording there" in ran.stderr


def test_a_model_to_draw_from_and_nothing_to_be_drawn(aic: Aic, tmp_path: Path) -> None:
    ran = aic("figures", "--runs", tmp_path, "--no-sample", "--capability", tmp_path)

    assert ran.status == 2
    assert "capability" in ran.stderr
    assert "leave --no-sample away" in ran.stderr
