"""``aic eval``, on a scripted model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ModelFactory
from tests.unit.cli.conftest import Aic, UseModel
from tests.unit.evaluation.puzzler import Puzzler

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
    for part in ("adaptive+pruning", "majority vote", "Quality of adaptive, less", "For real"):
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


@pytest.mark.usefixtures("scripted")
def test_an_unknown_method_is_refused_before_any_token(aic: Aic) -> None:
    shown = aic("eval", *SMALL, "--methods", "magic")

    assert shown.status == 2
    assert "sampling" not in shown.stderr
