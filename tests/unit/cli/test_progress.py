"""What is shown while something runs."""

from __future__ import annotations

import io
import sys

import pytest

from selfeval_backend.cli.progress import live_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_with_rates_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with live_progress() as progress:
        for done in range(4):
            progress("rollouts", done, 3)
    shown = terminal.getvalue()
    assert "rollouts" in shown
    assert "3/3" in shown
    assert "a second" in shown


def test_elsewhere_a_line_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live_progress() as progress:
        progress("rollouts", 3, 3)
    assert "rollouts: 3 of 3" in capsys.readouterr().err
