"""``aic tune``, on recordings made by hand."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from selfeval_backend.model import find_selfeval
from selfeval_backend.samples.store import save_recording
from selfeval_backend.selfeval import PAPER_QUESTION, SelfEvalConfig
from tests.unit.cli.conftest import Aic
from tests.unit.evaluation.test_tuning import knowing


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    save_recording(tmp_path / "rollouts", knowing(44))
    return tmp_path / "rollouts"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    SelfEvalConfig(policy={"threshold": 0.5}, provenance={"seed": 7}).save(folder)
    return folder


def test_the_policy_is_written_beside_the_model(aic: Aic, rollouts: Path, checkpoint: Path) -> None:
    ran = aic("tune", "--rollouts", rollouts, "--keep-quality", 0.8, "--model", checkpoint)

    assert ran.status == 0, ran.stderr
    assert "Expect at least 80% of the improvement kept" in ran.stdout
    config = SelfEvalConfig.load(checkpoint)
    assert config is not None
    assert config.question == PAPER_QUESTION
    assert config.policy["threshold"] >= 0.5
    assert config.policy["max_samples"] == 6
    assert config.provenance["seed"] == 7
    assert config.provenance["tuned"]["shown"]


def test_what_is_not_shown_is_not_written(aic: Aic, rollouts: Path, checkpoint: Path) -> None:
    goal = ("tune", "--rollouts", rollouts, "--max-samples-mean", 2.4, "--model", checkpoint)
    before = (checkpoint / "selfeval.json").read_text()

    refused = aic(*goal)
    assert refused.status == 2
    assert "Not promised: at most 2.4 samples a prompt" in refused.stdout
    assert (checkpoint / "selfeval.json").read_text() == before

    tried = aic(*goal, "--unproven", "--dry-run", "--json")
    assert tried.status == 0
    assert not json.loads(tried.stdout)["shown"]
    assert (checkpoint / "selfeval.json").read_text() == before

    assert aic(*goal, "--unproven").status == 0
    config = SelfEvalConfig.load(checkpoint)
    assert config is not None
    assert not config.provenance["tuned"]["shown"]


def test_one_goal_at_a_time(aic: Aic, rollouts: Path) -> None:
    ran = aic("tune", "--rollouts", rollouts, "--keep-quality", 0.9, "--max-samples-mean", 2)
    assert ran.status == 2
    assert "one of --keep-quality" in ran.stderr


@pytest.fixture
def hub_model(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the hub's cache, whose files are links to blobs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    for file in checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


GOAL = ("--keep-quality", 0.8)


def test_a_hubs_cache_is_never_written_to(
    aic: Aic, rollouts: Path, checkpoint: Path, hub_model: Path
) -> None:
    before = (checkpoint / "selfeval.json").read_text()
    ran = aic("tune", "--rollouts", rollouts, *GOAL, "--model", hub_model)

    assert ran.status == 0, ran.stderr
    assert (checkpoint / "selfeval.json").read_text() == before
    assert (hub_model / "selfeval.json").is_symlink()
    found = find_selfeval(hub_model)
    assert found.of_user
    assert f"It is written to {found.path}." in ran.stdout
    assert found.config is not None
    assert found.config.provenance["seed"] == 7


def test_out_says_where(aic: Aic, rollouts: Path, checkpoint: Path, tmp_path: Path) -> None:
    command = ("tune", "--rollouts", rollouts, *GOAL, "--model", checkpoint, "--json")
    before = (checkpoint / "selfeval.json").read_text()

    for out, expected in (("a/b", "a/b/selfeval.json"), ("mine.json", "mine.json")):
        ran = aic(*command, "--out", tmp_path / out)
        assert ran.status == 0, ran.stderr
        path = tmp_path / expected
        assert json.loads(ran.stdout)["to"] == str(path)
        assert json.loads(path.read_text())["provenance"]["tuned"]["shown"]
    assert (checkpoint / "selfeval.json").read_text() == before


def test_where_nothing_can_be_written_is_said_before_anything_is_tuned(
    aic: Aic, rollouts: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    command = ("tune", "--rollouts", rollouts, *GOAL, "--model", checkpoint)

    for out in (tmp_path / "file" / "x", "/dev/full", tmp_path / "file" / "x.json"):
        ran = aic(*command, "--out", out)
        assert ran.status == 2
        assert ran.stdout == ""
        assert "cannot be written" in ran.stderr
        assert "Choose another place with --out" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


def test_a_disk_that_is_full_at_the_end_costs_neither_the_choice_nor_the_file(
    aic: Aic, rollouts: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (checkpoint / "selfeval.json").read_text()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("selfeval_backend.files.os.fsync", full)
    ran = aic("tune", "--rollouts", rollouts, *GOAL, "--model", checkpoint)

    assert ran.status == 2
    assert "Policy" in ran.stdout
    assert ran.stderr.splitlines()[-1] == (
        f"aic: error: {checkpoint / 'selfeval.json'} cannot be written: No space left on device. "
        "What was finished before is kept: make room, and start again."
    )
    assert (checkpoint / "selfeval.json").read_text() == before
    assert [path.name for path in checkpoint.iterdir() if "partial" in path.name] == []
