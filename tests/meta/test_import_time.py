"""What a user waits for before anything happens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "aic_integrations",
    "langchain_core",
    "llama_index",
    "matplotlib",
    "numpy",
    "pyarrow",
    "sklearn",
    "torch",
    "transformers",
    "vllm",
)
MAX_CPU_SECONDS = 1.5
"""Of a whole process; a quiet machine takes a tenth of it. Any heavy import takes more."""

PROBE = """
import contextlib, io, json, sys, time
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    {statement}
print(json.dumps([sorted(sys.modules), time.process_time()]))
"""
HELP = "sys.argv = ['aic', {}'--help']; from selfeval_backend.cli.main import main; main()"


@pytest.mark.parametrize(
    "statement",
    [
        "import selfeval_backend",
        "from selfeval_backend import BestOfN, Settings, Usage",
        "from selfeval_backend import Message, SelfEvaluatingModel, load_model",
        HELP.format(""),
        HELP.format("'ask', "),
        HELP.format("'demo', "),
        HELP.format("'doctor', "),
        HELP.format("'train', "),
        HELP.format("'eval', "),
        HELP.format("'tune', "),
        "from selfeval_backend.evaluation import live",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    seconds = []
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", PROBE.format(statement=statement)],
            capture_output=True,
            text=True,
            check=True,
        )
        imported, cpu_seconds = json.loads(ran.stdout)
        seconds.append(cpu_seconds)
        assert not {name.partition(".")[0] for name in imported} & set(HEAVY)
        if cpu_seconds < MAX_CPU_SECONDS:
            break
    assert min(seconds) < MAX_CPU_SECONDS


def test_importing_the_package_imports_nothing_of_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement="import selfeval_backend")],
        capture_output=True,
        text=True,
        check=True,
    )
    imported, _ = json.loads(ran.stdout)
    assert [name for name in imported if name.startswith("selfeval_backend")] == [
        "selfeval_backend"
    ]
