"""``aic eval``, on a scripted model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfeval_backend.evaluation.tasks import ReferenceTask
from tests.conftest import ModelFactory
from tests.unit.cli.conftest import Aic, UseModel
from tests.unit.samples.puzzler import Puzzler

NUM_PROMPTS = 6


@pytest.fixture
def scripted(
    make_model: ModelFactory, use_model: UseModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that answers by a script, and a folder to keep things in."""
    policy = {"threshold": 0.9, "prune_at": [8], "keep_fraction": 0.25}
    use_model(make_model(Puzzler(unsure_at=(8, 16)), policy=policy, name="reference"))
    monkeypatch.chdir(tmp_path)


SMALL = ("--n", NUM_PROMPTS, "--samples", 4, "--checkpoints", "8", "--seed", 3)


@pytest.mark.usefixtures("scripted")
def test_methods_side_by_side(aic: Aic) -> None:
    shown = aic("eval", *SMALL, "--live")

    assert shown.status == 0, shown.stderr
    assert "reference on reference: 6 prompts x 4 samples, seed 3" in shown.stdout
    for part in ("adaptive+pruning", "majority vote", "Quality of adaptive minus", "Run for real"):
        assert part in shown.stdout
    assert "Left out: DeepConf; the recording has no token_confidences." in shown.stdout
    assert "sampling reference: 6 of 6" in shown.stderr

    kept = "runs/eval/reference-reference"
    again = aic("eval", "--rollouts", kept, "--json", "--methods", "adaptive")
    document = json.loads(again.stdout)
    names = [row["method"] for row in document["methods"]]
    assert names == ["one sample", "best-of-4", "adaptive"]
    one, full, _ = document["methods"]
    assert one["quality"]["value"] < full["quality"]["value"]
    assert full["tokens_saved"]["value"] == 0.0
    assert document["num_prompts"] == NUM_PROMPTS
    assert document["recording"]["checkpoints"] == [8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "magic"), "methods: got 'magic'"),
        (("--methods", "DeepConf"), "it has no token_confidences"),
        (("--task", "nowhere"), "task: got 'nowhere'"),
        (("--checkpoints", "8;16"), "checkpoints: got '8;16'"),
        (("--rollouts", "x", "--live"), "rollouts: got 'x', expected none with --live"),
        (("--rollouts", "x"), "rollouts: got 'x', expected none with --samples"),
        (("--max-error-share", 2), "max_error_share: got 2.0"),
        (("--scorer-timeout", 3), "scorer_timeout: got 3.0, expected none"),
        (("--samples", 0), "max_samples: got 0"),
        (("--top-k", -2), "top_k: got -2"),
        (("--min-p", 2), "min_p: got 2.0"),
        (("--repetition-penalty", 0), "repetition_penalty: got 0.0"),
        (("--rollouts", "x", "--top-p", 0.9), "rollouts: got 'x', expected none with"),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_what_cannot_be_done_is_one_line(
    aic: Aic, arguments: tuple[object, ...], message: str
) -> None:
    shown = aic("eval", *SMALL, *arguments)

    assert shown.status == 2
    assert message in " ".join(shown.stderr.splitlines())
    assert len([x for x in shown.stderr.splitlines() if x.startswith("aic: ")]) == 1


def test_a_folder_without_a_recording_is_one_line(aic: Aic, tmp_path: Path) -> None:
    shown = aic("eval", "--rollouts", tmp_path)
    assert shown.status == 2
    assert "no recording there" in shown.stderr


def test_tokens_are_drawn_as_the_model_does_unless_it_is_said(
    aic: Aic,
    make_model: ModelFactory,
    use_model: UseModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    use_model(make_model(Puzzler(), policy={"temperature": 0.7, "top_k": 20}, name="reference"))
    monkeypatch.chdir(tmp_path)
    shown = aic("eval", *SMALL, "--top-k", 5, "--min-p", 0.1, "--json", "--methods", "adaptive")
    assert shown.status == 0, shown.stderr
    recording = json.loads(shown.stdout)["recording"]
    drawn = {"temperature": 0.7, "top_p": 1.0, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.0}
    assert {name: recording[name] for name in drawn} == drawn


@pytest.mark.usefixtures("scripted")
def test_an_unknown_method_is_refused_before_any_token(aic: Aic) -> None:
    shown = aic("eval", *SMALL, "--methods", "magic")

    assert shown.status == 2
    assert "sampling" not in shown.stderr


def task_file(path: Path, *answers: str) -> Path:
    """A file of problems that the scripted model can answer."""
    items = ReferenceTask(len(answers), seed=3).items
    rows = [
        {"id": f"p{place}", "prompt": item.prompt, "answer": answer}
        for place, (item, answer) in enumerate(zip(items, answers, strict=True))
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


FEW = ("--samples", 2, "--checkpoints", "none", "--seed", 3, "--json", "--methods", "adaptive")


@pytest.mark.usefixtures("scripted")
def test_another_scorer_in_the_same_folder_gives_other_figures(aic: Aic, tmp_path: Path) -> None:
    task = task_file(tmp_path / "mine.jsonl", "1", "2")
    Path("own_cli.py").write_text("def score(response, row):\n    return 1.0\n")
    figures = []
    for _ in range(2):
        shown = aic("eval", "--task", task, "--scorer", "own_cli:score", *FEW)
        assert shown.status == 0, shown.stderr
        figures.append(json.loads(shown.stdout)["methods"][0]["quality"]["value"])
        Path("own_cli.py").write_text("def score(response, row):\n    return 0.0\n")
    assert figures == [1.0, 0.0]
    assert "aic: rewards of 2 prompts (p0, p1) are made anew" in shown.stderr
    assert "sampling" not in shown.stderr

    Path("own_cli.py").write_text("def score(response, row):\n    return 0.5\n")
    replayed = aic("eval", "--rollouts", "runs/eval/mine-reference", "--json")
    assert json.loads(replayed.stdout)["recording"]["scorer_spec"] == "own_cli:score"
    assert "aic: warning: rewards are of own_cli:score (source" in replayed.stderr
    tuned = aic("tune", "--rollouts", "runs/eval/mine-reference", "--dry-run")
    assert "aic: warning: rewards are of own_cli:score (source" in tuned.stderr


@pytest.mark.usefixtures("scripted")
def test_a_scorer_that_fails_now_and_then_is_counted(aic: Aic, tmp_path: Path) -> None:
    task = task_file(tmp_path / "mine.jsonl", "1", "2")
    Path("own_fails.py").write_text(
        "import os\ndef score(response, row):\n"
        "    if row['id'] == 'p0':\n        os._exit(1)\n"
        "    print('noise')\n    return 1.0\n"
    )
    command = ("eval", "--task", task, "--scorer", "own_fails:score", *FEW)
    shown = aic(*command, "--max-error-share", 1, "--live")
    document = json.loads(shown.stdout)
    num_errors, num_samples = document["num_errors"], document["num_samples"]
    assert 0 < num_errors < num_samples
    assert document["methods"][0]["quality"]["value"] == 0.5  # what has no reward counts as 0
    assert document["live"]["adaptive"] == {
        "quality": 0.5,
        "tokens": pytest.approx(document["live"]["adaptive"]["tokens"]),
        "num_errors": 1,
    }
    table = aic(*(part for part in command if part != "--json"), "--max-error-share", 1)
    counted = f"counted as the worst (0): {num_errors} of {num_samples} samples."
    assert counted in table.stdout
    assert "Rewards by own_fails:score (source" in table.stdout

    refused = aic(*command)
    assert refused.status == 2
    assert "rewards failed, more than max_error_share (5%)" in refused.stderr
    assert "the scorer's process ended: exit status 1" in refused.stderr


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("own_bad:score", "SyntaxError in own_bad.py, line 1"),
        ("nowhere:score", "No module named 'nowhere'"),
        ("regex:(", "a regular expression"),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_a_scorer_that_cannot_be_loaded_is_one_line(
    aic: Aic, tmp_path: Path, scorer: str, message: str
) -> None:
    Path("own_bad.py").write_text("def score(:")
    shown = aic("eval", "--task", task_file(tmp_path / "mine.jsonl", "1"), "--scorer", scorer, *FEW)
    assert shown.status == 2
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
