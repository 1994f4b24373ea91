"""``aic tune``, on recordings made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfeval_backend.evaluation.recordings import write_shard
from selfeval_backend.selfeval import PAPER_QUESTION, SelfEvalConfig
from tests.unit.cli.conftest import Aic
from tests.unit.evaluation.test_choosing import knowing


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    made = knowing(44)
    write_shard(tmp_path / "rollouts" / "rollouts-0.parquet", made.info, made.prompts)
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
