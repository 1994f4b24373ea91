"""`aic doctor`: arguments, what is printed, and the exit status."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from selfeval_backend.cli.doctor_view import print_json, print_sections
from selfeval_backend.doctor import Check, Section
from selfeval_backend.model import REFERENCE_FOLDER
from tests.unit.cli.conftest import Aic

NOBODY = "http://127.0.0.1:9/v1"

pytest.importorskip("transformers", reason="the extra with transformers is not installed")
pytest.importorskip("tenacity", reason="the extra with servers is not installed")


@pytest.mark.slow
def test_all_is_well(aic: Aic) -> None:
    ran = aic("doctor", "--model", "reference", "--engine", "transformers")

    assert (ran.status, ran.stderr) == (0, "")
    assert "This machine\n" in ran.stdout
    assert "Model reference\n" in ran.stdout
    assert ran.stdout.rstrip().splitlines()[-1].startswith("All is well: ")


@pytest.mark.slow
def test_without_selfeval_json_it_works_with_a_warning(aic: Aic, tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE_FOLDER, tmp_path / "model")
    (folder / "selfeval.json").unlink()

    ran = aic("doctor", "--model", folder, "--engine", "transformers")

    assert ran.status == 0
    assert " warning      selfeval.json" in ran.stdout
    assert "-> Train it" in ran.stdout
    assert ran.stdout.rstrip().splitlines()[-1].startswith("It works: ")


@pytest.mark.slow
def test_a_broken_selfeval_json_fails(aic: Aic, tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE_FOLDER, tmp_path / "model")
    (folder / "selfeval.json").write_text("{", encoding="utf-8")

    ran = aic("doctor", "--model", folder, "--engine", "transformers")

    assert ran.status == 1
    assert " failed       selfeval.json" in ran.stdout
    assert ran.stdout.rstrip().splitlines()[-1].startswith("Not well: ")


@pytest.mark.slow
def test_servers_that_are_not_there_stop_nothing_else(aic: Aic) -> None:
    ran = aic(
        "doctor",
        "--model",
        "reference",
        "--base-url",
        NOBODY,
        "--base-url",
        f"{NOBODY}/v1",
        "--json",
    )

    assert ran.status == 1
    document = json.loads(ran.stdout)
    assert not document["ok"]
    machine, model, *servers = document["sections"]
    assert {check["status"] for check in (*machine["checks"], *model["checks"])} == {"ok"}
    for server in servers:
        reachable, *others = server["checks"]
        assert (reachable["name"], reachable["status"]) == ("reachable", "failed")
        assert reachable["remedy"]
        assert {check["status"] for check in others} == {"not checked"}
        assert len(others) == 11


@pytest.mark.slow
def test_the_files_of_a_server_may_be_elsewhere(aic: Aic) -> None:
    ran = aic(
        "doctor", "--model", "m", "--model-files", "reference", "--base-url", NOBODY, "--json"
    )

    assert json.loads(ran.stdout)["sections"][1]["title"] == "Model reference"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "tpu"], "engine: got 'tpu'"),
        (["--engine", "vllm", "--base-url", NOBODY], "engine: got 'vllm'"),
        (["--model-files", "reference"], "model_files: got 'reference'"),
        (["--model", " "], "model: got ' '"),
        (["--base-url", "localhost:8000"], "base_url: got 'localhost:8000'"),
        (["--base-url", NOBODY, "--base-url", "x"], "base_url: got 'x'"),
    ],
)
def test_bad_arguments_have_status_2(aic: Aic, arguments: list[str], said: str) -> None:
    ran = aic("doctor", *arguments)

    assert (ran.status, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"aic: error: {said}")


@pytest.mark.slow
def test_without_the_packages_for_servers(aic: Aic, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("selfeval_backend")]:
        if "server" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tenacity", None)

    ran = aic("doctor", "--model", "reference", "--base-url", NOBODY)

    assert " not checked  reachable" in ran.stdout
    assert "packages are missing" in ran.stdout


SECTIONS = (
    Section(
        title="Server [b]",
        checks=(
            Check(name="one", status="ok", found="fine " * 30),
            Check(name="two", status="failed", found="bad", remedy="pip install 'x[server]'"),
            Check(name="three", status="not checked", found="see two"),
            Check(name="four", status="not checked", found="see two"),
        ),
    ),
)


def test_what_looks_like_markup_is_text_and_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TTY_COMPATIBLE", "0")  # plain text

    print_sections(SECTIONS)

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0] == "Server [b]"
    assert " ".join(lines).count("fine") == 30
    assert any("-> pip install 'x[server]'" in line for line in lines)
    assert sum("see two" in line for line in lines) == 1
    assert lines[-1] == "Not well: 1 ok, 1 failed, 2 not checked."


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(SECTIONS)

    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["sections"][0]["checks"][1] == {
        "name": "two",
        "status": "failed",
        "found": "bad",
        "remedy": "pip install 'x[server]'",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 16}, "failed"),
        ({"model_type": "mistral", "sliding_window": 16}, "failed"),
        ({"model_type": "mistral", "sliding_window": 1 << 20}, "ok"),
        ({"model_type": "t5"}, "failed"),
        ({"model_type": "bloom"}, "failed"),
        ({"model_type": "no_such_architecture"}, "failed"),
    ],
    ids=["gemma 3", "a window", "a window larger than the context", "t5", "bloom", "unknown"],
)
def test_what_the_engine_refuses_is_not_well(
    aic: Aic, tmp_path: Path, changes: dict[str, object], status: str
) -> None:
    folder = shutil.copytree(REFERENCE_FOLDER, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")

    ran = aic("doctor", "--model", folder, "--engine", "transformers", "--json")

    _, model = json.loads(ran.stdout)["sections"]
    found = {check["name"]: check["status"] for check in model["checks"]}
    assert found["architecture"] == status
    assert ran.status == (1 if status == "failed" else 0)
