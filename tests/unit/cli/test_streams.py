"""Streams that are closed, full, read by nobody, or take few letters: no traceback, no lost answer.

Each is tried on a process of its own, as the streams of a test are pytest's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LETTERS = "é ± ☃ 😀"

SCRIPTED = textwrap.dedent(
    f"""
    import os, pathlib, warnings
    from selfeval_backend import model as model_module
    from selfeval_backend.cli.main import main
    from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
    from selfeval_backend.selfeval import SelfEvalConfig

    def load(name, **_):
        pathlib.Path(os.environ["LOADED"]).touch()
        warnings.simplefilter("ignore")
        script = lambda call: chat.response({LETTERS!r}, 0.9)
        return model_module.SelfEvaluatingModel(
            name=name, engine=ScriptedEngine(script), chat=chat, config=SelfEvalConfig()
        )

    chat = ScriptedChat()
    model_module.load_model = load
    main()
    """
)


def shell(
    tmp_path: Path, arguments: str, **environment: str
) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Run `aic` with a shell's redirections; return whether the model was loaded too."""
    loaded = tmp_path / "loaded"
    command = f'set -o pipefail; "$PYTHON" "$SCRIPT" {arguments}'
    (tmp_path / "script.py").write_text(SCRIPTED, encoding="utf-8")
    ran = subprocess.run(
        ["bash", "-c", command],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "SCRIPT": str(tmp_path / "script.py"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "LOADED": str(loaded),
            **environment,
        },
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    assert b"Exception ignored" not in ran.stderr, ran.stderr.decode()
    return ran, loaded.exists()


ASK = "ask Hi --model reference --max-samples 1 --seed 0"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("cp1252", "é ± ? ?"), ("ascii", "? ? ? ?"), ("utf-8", LETTERS), ("latin-1", "é ± ? ?")],
)
def test_letters_that_stdout_cannot_take_are_replaced(
    tmp_path: Path, encoding: str, shown: str
) -> None:
    ran, _ = shell(tmp_path, ASK, PYTHONIOENCODING=encoding)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.decode(encoding).splitlines()[0] == shown
    assert b"prob_win_or_tie" in ran.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_keeps_every_letter(tmp_path: Path, encoding: str) -> None:
    ran, _ = shell(tmp_path, f"{ASK} --json", PYTHONIOENCODING=encoding)

    assert json.loads(ran.stdout.decode(encoding))["answer"] == LETTERS


def test_the_c_locale(tmp_path: Path) -> None:
    settings = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ran, _ = shell(tmp_path, ASK, **settings)

    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, b"? ? ? ?")


def test_a_closed_stdout_is_refused_before_anything_is_paid_for(tmp_path: Path) -> None:
    ran, loaded = shell(tmp_path, f"{ASK} >&-")

    assert (ran.returncode, loaded) == (2, False)
    assert ran.stderr.startswith(b"aic: error: stdout is closed.")


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>/dev/full", "<&- 2>&-"])
def test_an_answer_needs_stdout_alone(tmp_path: Path, closed: str) -> None:
    ran, _ = shell(tmp_path, f"{ASK} {closed}")

    assert (ran.returncode, ran.stdout.decode().splitlines()[0]) == (0, LETTERS)


@pytest.mark.parametrize("what", [ASK, f"{ASK} --json", "--help"])
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path, what: str) -> None:
    ran, _ = shell(tmp_path, f"{what} | head -0")

    assert ran.returncode in (1, 141)
    assert ran.stderr == b""


def test_a_reader_that_goes_away_is_told_by_the_exit_status(tmp_path: Path) -> None:
    ran, _ = shell(tmp_path, f"{ASK} | (exec <&-; sleep 0)")

    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("what", [ASK, "--help", "--version"])
def test_a_full_disk_is_one_line(tmp_path: Path, what: str) -> None:
    ran, _ = shell(tmp_path, f"{what} >/dev/full")

    assert ran.returncode == 1
    assert ran.stderr == b"aic: error: stdout cannot be written: No space left on device.\n"


def test_no_command_writes_but_by_the_one_writer() -> None:
    from selfeval_backend import cli

    for path in Path(str(cli.__file__)).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "typer.echo" not in text
        assert path.name == "console.py" or "sys.stdout.write" not in text
