"""`aic train`: what it would do, and what cannot be done, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import Aic


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = "".join(f'{{"prompt": "What is {n}?", "answer": "{n}"}}\n' for n in range(50))
    (tmp_path / "prompts.jsonl").write_text(rows)
    body = {
        "name": "mine",
        "model": "reference",
        "folder": str(tmp_path / "run"),
        "prompts": {
            "source": {
                "kind": "file",
                "path": str(tmp_path / "prompts.jsonl"),
                "answer_column": "answer",
            }
        },
        "rewards": {"kind": "math"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def test_a_dry_run_shows_every_stage_and_makes_none(aic: Aic, config: Path) -> None:
    ran = aic("train", "--config", config, "--dry-run")
    assert ran.status == 0, ran.stderr
    lines = ran.stdout.splitlines()
    stages = ("prompts", "rollouts", "rewards", "preferences", "finetune", "calibrate", "report")
    assert [line.split()[0] for line in lines if line.split()[:1] and line[0] != " "][2:] == list(
        stages
    )
    assert "the first 50 rows are prompts" in ran.stdout
    assert "1,541,760 parameters" in ran.stdout
    assert not list((config.parent / "run").glob("*-*"))


def test_a_dry_run_up_to_a_stage(aic: Aic, config: Path) -> None:
    ran = aic("train", "rollouts", "--config", config, "--dry-run", "--set", "rollouts.samples=3")
    assert "3 samples a prompt" in ran.stdout
    assert "rewards" not in ran.stdout


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("--set", "rollouts.samples=1"), "rollouts.samples: got 1"),
        (("--set", "model=/no/such"), "no folder /no/such"),
        (("--set", "prompts.source.path=/no/such.jsonl"), "there is no file"),
        (("--set", "win_or_tie_label=Yes, it is."), "same token"),
        (("--set", "prompts.source.answer_column=solution"), "no column 'solution'"),
        (("--set", "nonsense=1"), "nonsense: got 1, expected no such field"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    aic: Aic, config: Path, given: tuple[str, ...], what: str
) -> None:
    ran = aic("train", "--config", config, "--dry-run", *given)
    assert ran.status == 2
    assert what in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_an_unknown_stage_or_recipe(aic: Aic, config: Path) -> None:
    ran = aic("train", "everything", "--config", config)
    assert (ran.status, "one of prompts, rollouts" in ran.stderr) == (2, True)
    ran = aic("train", "--config", "none.yaml")
    assert (ran.status, "gsm8k, lmsys-armorm" in ran.stderr) == (2, True)
