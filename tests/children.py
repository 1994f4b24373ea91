"""Code that runs in a process of its own, for tests: a hang shows where every thread stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

__all__ = ["Ended", "run_child"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A process that has ended."""

    status: int
    stdout: str
    stderr: str


def run_child(code: str, *arguments: str, within_s: float = 60.0) -> Ended:
    """Run Python code in a new interpreter, in which warnings are errors.

    Args:
        code: Of the main module.
        arguments: Its `sys.argv[1:]`.
        within_s: It is killed then, with all that it has forked, and fails with their stacks.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # at which each writes its stacks
        stdout, stderr = process.communicate(timeout=10)
        raise AssertionError(f"it hung for {within_s:g} s:\n{stdout}\n{stderr}") from None
    return Ended(status=process.returncode, stdout=stdout, stderr=stderr)
