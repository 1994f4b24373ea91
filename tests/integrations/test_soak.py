"""The soak run, small: a server that is stopped, killed and restarted, and a network that fails."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_call_ends_with_an_answer_or_an_error_of_this_project() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("the extra with vLLM is not installed")
    ended = subprocess.run(
        [sys.executable, str(SOAK), "--calls", "60", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=850,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["calls"] == 60
    assert found["server"] == {"stopped": 1, "killed": 1}
    assert found["answered, left or cancelled"] > 20
