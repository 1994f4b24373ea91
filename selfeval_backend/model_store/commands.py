"""Run a command that is waited for, and keep what it says."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

__all__ = ["CommandFailedError", "run_command"]

_SECONDS_BETWEEN_LOOKS = 0.2


class CommandFailedError(Exception):
    """A command ended with another status than 0.

    Args:
        output: All that it said.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        super().__init__(self.why)

    @property
    def why(self) -> str:
        """The last line that says that it is an error; else the last of all."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        return (errors or lines or ["it said nothing"])[-1]


def run_command(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    while_running: Callable[[], None] = lambda: None,
) -> None:
    """Run a command to its end; it is stopped where this is left before.

    Args:
        command: Program and arguments.
        env: Added to this process's environment.
        while_running: Called several times a second.

    Raises:
        CommandFailedError: Its status is not 0.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            while not _has_ended(process):
                while_running()
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise CommandFailedError(said.read().decode(errors="replace"))


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return False
    return True
