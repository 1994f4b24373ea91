"""``python -m benchmarks.figures``, from kept samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.figures.__main__ import app
from tests.unit.benchmarks.figures.test_page import made_runs
from tests.unit.cli.conftest import Ran


def run(*args: object) -> Ran:
    """Run the command line of the figures."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.mark.slow
def test_rebuilt_from_kept_samples(tmp_path: Path) -> None:
    ran = run("--runs", made_runs(tmp_path), "--out", tmp_path, "--no-sample")

    assert ran.status == 0, ran.stderr
    assert "results.md" in ran.stdout
    assert (tmp_path / "results" / "front.svg").is_file()


def test_nothing_to_rebuild_from(tmp_path: Path) -> None:
    ran = run("--runs", tmp_path / "nowhere", "--no-sample")

    assert ran.status == 2
    assert "no recording there" in ran.stderr


def test_a_model_to_draw_from_and_nothing_to_be_drawn(tmp_path: Path) -> None:
    ran = run("--runs", tmp_path, "--no-sample", "--capability", tmp_path)

    assert ran.status == 2
    assert "capability" in ran.stderr
    assert "leave --no-sample away" in ran.stderr
