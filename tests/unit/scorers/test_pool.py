"""Scorers that hang, crash and lie cost their own response, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.scorers import Scored, Scorer, Scoring, load_scorer, read_spec
from tests.unit.scorers.conftest import WriteModule

TIMEOUT_S = 1.0

TRICKS = """
import ctypes, os, sys, time
from fractions import Fraction

class Rude(BaseException):
    def __str__(self):
        raise RuntimeError

def score(response, row):
    match response:
        case "exit": os._exit(3)
        case "leave": sys.exit(4)
        case "rude": raise Rude
        case "interrupt": raise KeyboardInterrupt
        case "crash": ctypes.string_at(0)
        case "memory": return len(bytearray(10**14))
        case "print": print("noise"); return 1
        case "fork": os.fork(); return 1
        case "bool": return True
        case "fraction": return Fraction(1, 2)
        case "none": return None
        case "text": return "1"
        case "nan": return float("nan")
        case "long": return 10**5000
        case "digits": return float(str(10**5000)[0])
        case "spin":
            while True: pass
        case "pid":
            open("pid", "w").write(str(os.getpid()))
            while True: pass
        case "children":
            if not os.fork(): time.sleep(1000)
            open("child", "w").write("forked")
            time.sleep(1000)
    return len(response)
"""


def scorer_of(name: str, *, timeout_s: float = TIMEOUT_S, with_rows: bool = True) -> Scorer:
    return load_scorer(
        read_spec("scorer", name),
        field="scorer",
        with_rows=with_rows,
        timeout_s=timeout_s,
        workers=1,
    )


@pytest.fixture(scope="module")
def tricky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    """A scorer that does what the response says; found in the folder where it was loaded."""
    folder = tmp_path_factory.mktemp("tricks")
    (folder / "tricks.py").write_text(TRICKS)
    before = Path.cwd()
    os.chdir(folder)
    try:
        scorer = scorer_of("tricks:score", timeout_s=5.0)
    finally:
        os.chdir(before)
    yield scorer
    scorer.close()


def ask(scorer: Scorer, response: str) -> Scored:
    (scored,) = scorer([Scoring(response=response, row={})])
    return scored


@pytest.mark.parametrize(
    ("response", "error"),
    [
        ("exit", "the scorer's process ended: exit status 3"),
        ("crash", "the scorer's process ended: SIGSEGV"),
        ("leave", "SystemExit: 4"),
        ("rude", "Rude"),
        ("interrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError"),
        ("none", "the reward is None, expected a finite number"),
        ("text", "the reward is '1', expected a finite number"),
        ("nan", "the reward is nan, expected a finite number"),
        ("long", "OverflowError: int too large to convert to float"),
    ],
)
def test_what_fails_is_an_error_of_its_response(tricky: Scorer, response: str, error: str) -> None:
    assert ask(tricky, response) == Scored(error=error)
    assert ask(tricky, "abc").reward == 3.0


@pytest.mark.parametrize(
    ("response", "reward"), [("bool", 1.0), ("fraction", 0.5), ("digits", 1.0), ("fork", 1.0)]
)
def test_what_is_a_number_is_a_reward(tricky: Scorer, response: str, reward: float) -> None:
    assert ask(tricky, response) == Scored(reward=reward)
    assert ask(tricky, "abc").reward == 3.0


def test_what_a_scorer_prints_is_not_on_our_stdout(
    tricky: Scorer, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(tricky, "crash")  # so that a process is started under this capture
    assert ask(tricky, "print").reward == 1.0
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_scorer_that_never_ends_is_killed_with_what_it_forked(write_module: WriteModule) -> None:
    write_module("tricks.py", TRICKS)
    scorer = scorer_of("tricks:score")
    began = time.monotonic()
    spun, forked = ask(scorer, "spin"), ask(scorer, "children")
    assert spun == forked == Scored(error="the scorer did not answer within 1 s")
    assert time.monotonic() - began < 30
    assert Path("child").read_text() == "forked"
    assert ask(scorer, "abc").reward == 3.0
    scorer.close()
    assert ask(scorer, "abc") == Scored(error="the scorer was closed")


@pytest.mark.slow
def test_a_pattern_that_goes_back_and_forth_is_killed() -> None:
    scorer = scorer_of("regex:(a+)+$", with_rows=False)
    frozen = Scoring(response="a" * 40 + "b", answer="a")
    results = scorer([frozen, Scoring(response="aa", answer="aa")])
    scorer.close()
    assert results == [
        Scored(error="the scorer did not answer within 1 s"),
        Scored(reward=1.0, answer="aa"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("power", [r"\boxed{9^{9^{9}}}", r"\boxed{123456789!}"])
def test_powers_of_powers_are_killed(power: str) -> None:
    scorer = scorer_of("math", with_rows=False, timeout_s=20)
    ok = Scoring(response=r"\boxed{\frac{2}{4}}", answer="0.5")
    assert scorer([ok])[0].reward == 1.0  # its library is imported now
    scorer.close()
    scorer = scorer_of("math", with_rows=False, timeout_s=3)
    assert scorer([Scoring(response=power, answer="7")])[0].error is not None
    scorer.close()


def test_closing_ends_what_is_being_scored(write_module: WriteModule) -> None:
    write_module("tricks.py", TRICKS)
    scorer = scorer_of("tricks:score", timeout_s=1000)
    found: list[Scored] = []
    thread = threading.Thread(target=lambda: found.append(ask(scorer, "spin")))
    thread.start()
    time.sleep(0.2)
    scorer.close()
    thread.join(20)
    assert not thread.is_alive()
    assert found[0].error is not None


INTERRUPTED = """
from selfeval_backend.scorers import Scoring, load_scorer, read_spec
spec = read_spec("scorer", "tricks:score")
scorer = load_scorer(spec, field="scorer", with_rows=True, timeout_s=1000)
print("ready", flush=True)
scorer([Scoring(response="children", row={}), Scoring(response="spin", row={})])
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems end it at the deadline")
def test_a_scorer_ends_with_the_process_that_asked(write_module: WriteModule) -> None:
    write_module("tricks.py", TRICKS)
    spinning = INTERRUPTED.replace("children", "pid").partition(", Scoring(")[0] + "])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", spinning], env=environment) as process:
        while not Path("pid").exists() or not Path("pid").read_text():
            time.sleep(0.05)
        process.kill()
    pid = int(Path("pid").read_text())
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once(write_module: WriteModule) -> None:
    write_module("tricks.py", TRICKS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not Path("child").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in stderr


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("def score(:", r"SyntaxError in own\.py, line 1"),
        ("raise SystemExit(3)", r"Importing own raised SystemExit: 3\."),
        ("import os; os._exit(3)", r"Loading it: the scorer's process ended: exit status 3\."),
        ("1 / 0", r"Importing own raised ZeroDivisionError: division by zero\."),
        ("import no_such_library", r"No module named 'no_such_library'\."),
        ("score = 3", r"expected a function, not int\."),
        ("class score:\n    pass", r"It is a class: name an object of it\."),
        ("def score(response): ...", r"a function of 2 arguments\. It too many"),
        ("async def score(response, row): ...", r"a function that is not async\."),
        ("", r"has no attribute 'score'\."),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(
    write_module: WriteModule, source: str, remedy: str
) -> None:
    write_module("own.py", source)
    with pytest.raises(ConfigurationError, match=rf"^scorer: got 'own:score', .*{remedy}") as found:
        scorer_of("own:score")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class Made:\n    def __call__(self, r, row): return 2\nscore = Made()", "score"),
        ("class Made:\n    @staticmethod\n    def score(r, row): return 2", "Made.score"),
        ("score = lambda r, row: 2", "score"),
        ("from functools import partial\nscore = partial(lambda n, r, row: n, 2)", "score"),
        ("import helper\ndef score(r, row): return helper.two()", "score"),
    ],
)
def test_whatever_can_be_called_is_a_scorer(
    write_module: WriteModule, source: str, name: str
) -> None:
    write_module("helper.py", "def two():\n    return 2\n")
    write_module("own.py", source)
    scorer = scorer_of(f"own:{name}", timeout_s=20)
    assert ask(scorer, "x").reward == 2.0
    scorer.close()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_is_some_seconds(value: float) -> None:
    with pytest.raises(ConfigurationError, match="scorer_timeout"):
        scorer_of("regex:a", timeout_s=value)
