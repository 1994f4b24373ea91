"""The command line as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest

from selfeval_backend import __version__
from tests.unit.cli.conftest import Aic

INTERRUPTED = textwrap.dedent(
    """
    import sys
    from selfeval_backend import model as model_module
    from selfeval_backend.cli.main import main
    from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
    from selfeval_backend.selfeval import SelfEvalConfig

    class Engine(ScriptedEngine):
        async def aclose(self):
            print("still open:", self.num_open, flush=True)
            await super().aclose()

    def script(call):
        print("generating", flush=True)
        return chat.response("never", 0.5, delay_s=600.0)

    def load(name, **_):
        scripted = Engine(script)
        return model_module.SelfEvaluatingModel(
            name=name, engine=scripted, chat=chat, config=SelfEvalConfig()
        )

    chat = ScriptedChat()
    model_module.load_model = load
    sys.argv = ["aic", *sys.argv[1:]]
    main()
    """
)


ASK = ("ask", "Use 3, 19 and 25 to make 41.", "--model", "reference")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["ask", "Hi", "--model", "reference"], ["demo", "--n", "1"]])
def test_ctrl_c_ends_generation_with_status_130(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "generating\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)

    assert process.returncode == 130
    assert stdout == "still open: 0\n"
    assert stderr.splitlines()[-1] == "aic: interrupted"
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "selfeval_backend", "ask", "Hi", "--max-samples", "0"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert ran.stderr == (
        "aic: error: max_samples: got 0, expected a whole number of at least 1.\n"
    )


def test_the_version(aic: Aic) -> None:
    assert aic("--version").stdout == f"aic {__version__}\n"


def test_help_names_the_commands(aic: Aic) -> None:
    stdout = aic("--help").stdout

    assert stdout.startswith("Usage: aic ")
    assert "ask" in stdout
    assert "demo" in stdout


@pytest.mark.parametrize(
    "option",
    [
        "--json",
        "--max-samples",
        "--threshold",
        "--prune-at",
        "--keep",
        "--seed",
        "--model",
        "--engine",
    ],
)
def test_ask_has_its_options(aic: Aic, option: str) -> None:
    assert option in aic("ask", "--help").stdout


@pytest.fixture(scope="module")
def _reference() -> None:
    from selfeval_backend.model import REFERENCE_FOLDER

    if not (REFERENCE_FOLDER / "config.json").is_file():
        pytest.skip("the reference model is not there: make reference")


@pytest.mark.slow
@pytest.mark.usefixtures("_reference")
class TestOnTheReferenceModel:
    """Weights, engine and all."""

    @staticmethod
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "selfeval_backend", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def test_ask(self) -> None:
        ran = self.run(*ASK, "--seed", "0", "--json")

        assert (ran.returncode, ran.stderr) == (0, "")
        document = json.loads(ran.stdout)
        assert document["calibrated"]
        assert 0.0 <= document["confidence"] <= 1.0
        assert document["answer"] == document["samples"][document["best"]]["text"]
        assert document["usage"]["generated_tokens"] > 0

    def test_a_prompt_that_does_not_fit_is_one_line(self) -> None:
        ran = self.run("ask", "Use 3, 19 and 25 to make 41. " * 100, "--model", "reference")

        assert ran.returncode == 2
        assert ran.stdout == ""
        assert ran.stderr.startswith("aic: error: prompt: got ")
        assert len(ran.stderr.splitlines()) == 1

    def test_demo(self) -> None:
        ran = self.run("demo", "--n", "40", "--no-conversation", "--json")

        assert ran.returncode == 0
        one, greedy, full, *others = json.loads(ran.stdout)["methods"]
        assert one["accuracy"] < full["accuracy"]
        assert one["self_evaluation_tokens"] == greedy["self_evaluation_tokens"] == 0
        assert full["self_evaluation_tokens"] > 0
        assert all(row["tokens_saved"] > 0.0 for row in others)

    def test_ctrl_c(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "selfeval_backend", "demo", "--n", "200"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "one sample" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=120)

        assert (process.returncode, stdout) == (130, "")
        assert stderr.splitlines()[-1] == "aic: interrupted"
        assert "Traceback" not in stderr
