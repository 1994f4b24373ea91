"""The training pipeline, for real: the reference model trained a few steps more, and kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfeval_backend.chat import Message
from selfeval_backend.errors import AICError, ConfigurationError, DatasetError, SelfEvaluationError
from selfeval_backend.model import load_model
from selfeval_backend.reference.problems import generate_problems
from selfeval_backend.samples.store import load_recording, read_samples, sample_files
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.training.pipeline import Pipeline
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.stages import make_pipeline

pytestmark = pytest.mark.slow

PLOTS = ("pair_accuracy.png", "reliability.png", "training.png")
STAGES = ("prompts", "rollouts", "rewards", "preferences", "finetune", "calibrate", "report")
BODY: dict[str, Any] = {
    "name": "tiny",
    "model": "reference",
    "prompts": {
        "source": {
            "kind": "function",
            "function": "selfeval_backend.reference.task:prompts",
            "arguments": {"train": 12, "validation": 8, "calibration": 12, "test": 12, "seed": 3},
        }
    },
    "rollouts": {"samples": 4, "max_tokens": 192, "shard_prompts": 4, "engine": "transformers"},
    "rewards": {"kind": "function", "function": "selfeval_backend.reference.task:score"},
    "preferences": {"tie_threshold": 0.0},
    "finetune": {
        "contrast": {"steps": 4, "warmup_steps": 1},
        "preferences": {"steps": 4, "warmup_steps": 1},
        "eval_steps": 2,
        "save_steps": 2,
    },
    "calibrate": {"samples": 4, "positions": [16, 32, 48], "prune_at": [[32]]},
    "report": {"resamples": 50},
}


def recipe(folder: Path, **sections: Any) -> Recipe:
    return Recipe.model_validate({**BODY, "folder": str(folder), **sections})


def pipeline(chosen: Recipe) -> Pipeline:
    return make_pipeline(chosen, progress=lambda *_: None, log=lambda _: None)


def outputs(chosen: Recipe) -> dict[str, dict[str, str]]:
    """Return the hash of every output; the training curve is of what was logged."""
    made = pipeline(chosen)
    found = {}
    for stage in STAGES:
        manifest = made.manifest(stage)
        assert manifest is not None
        found[stage] = {k: v for k, v in manifest.outputs.items() if "training.png" not in k}
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe that has been run through without a break, in a process of its own."""
    chosen = recipe(tmp_path_factory.mktemp("through"))
    ran = start(chosen).wait()
    assert ran == 0
    return chosen


def start(chosen: Recipe, stage: str = "report", *launcher: str) -> subprocess.Popen[str]:
    path = chosen.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    command = launcher or (sys.executable,)
    with (chosen.folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [*command, "-m", "selfeval_backend", "train", stage, "--config", str(path)],
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def test_the_folder_answers_at_once_and_says_how_good_it_is(trained: Recipe) -> None:
    folder = trained.folder / "tiny"
    model = load_model(folder, engine="transformers")
    problem = next(generate_problems("test", seed=99))
    answer = asyncio.run(model.answer([Message(role="user", content=problem.text)]))
    assert answer.outcome.calibrated
    assert answer.outcome.confidence is not None
    asyncio.run(model.aclose())
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["self_evaluation"]["whole"]["pair_accuracy"]["value"] > 0.8
    assert 0 <= figures["kl"]["value"] < 0.01
    page = (folder / "README.md").read_text()
    assert "## Failure signatures" in page
    assert tuple(sorted(path.name for path in folder.glob("*.png"))) == PLOTS
    assert not list(folder.glob("*.svg"))


def test_the_folder_says_whether_training_held_what_ended_at_max_tokens(trained: Recipe) -> None:
    (rollouts,) = trained.folder.glob("rollouts-*")
    (model,) = trained.folder.glob("calibrate-*/model")
    reasons = {
        sample.finish_reason
        for path in sample_files(rollouts)
        for prompt in read_samples(path)
        if prompt.split == "train"
        for sample in prompt.samples
    }
    config = SelfEvalConfig.load(model)
    assert config is not None and config.trained_on_cut_off is ("length" in reasons)


def test_what_training_drew_is_evaluated(trained: Recipe) -> None:
    """The held-out samples of the trained model are a recording like those of `aic eval`."""
    (folder,) = trained.folder.glob("calibrate-*/test")
    (report,) = trained.folder.glob("report-*/model")
    recording = load_recording(folder)
    assert recording.info.selfeval == SelfEvalConfig.load(report)
    assert (len(recording.prompts), recording.num_samples) == (12, 12 * 8)
    command = (
        sys.executable,
        "-m",
        "selfeval_backend",
        "eval",
        "--rollouts",
        str(folder),
        "--json",
    )
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    methods = {row["method"]: row for row in json.loads(ran.stdout)["methods"]}
    figures = json.loads((report / "figures.json").read_text())
    there = {row["method"]: row["accuracy"]["value"] for row in figures["policies"]}
    for name in ("one sample", "greedy", "best-of-4"):
        assert methods[name]["quality"]["value"] == pytest.approx(there[name]), name


def test_what_evaluation_drew_trains(trained: Recipe, tmp_path: Path) -> None:
    """The run folder of `aic eval` gives the samples of its prompts; the others are drawn."""
    (rollouts,) = trained.folder.glob("rollouts-*")
    prompts = [p for path in sample_files(rollouts) for p in read_samples(path)][:20]
    rows = [{"prompt": p.prompt, "answer": "0", "id": p.prompt_id} for p in prompts]
    task = tmp_path / "mine.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = tmp_path / "kept"
    options = ("--task", str(task), "--out", str(kept), "--samples", "4", "--max-tokens", "192")
    small = ("--checkpoints", "none", "--no-token-signals", "--engine", "transformers")
    command = (sys.executable, "-m", "selfeval_backend", "eval", *options, *small)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

    settings = trained.rollouts.model_copy(update={"kept": kept})
    chosen = trained.model_copy(update={"folder": tmp_path / "run", "rollouts": settings})
    folder = pipeline(chosen).run("preferences")
    evaluated = {p.prompt_ids: p for path in sample_files(kept) for p in read_samples(path)}
    drawn = {p.prompt_ids: p for path in sample_files(rollouts) for p in read_samples(path)}
    (mine,) = chosen.folder.glob("rollouts-*")
    num_kept = 0
    for prompt in (p for path in sample_files(mine) for p in read_samples(path)):
        found = evaluated.get(prompt.prompt_ids)
        if found is None:
            assert prompt == drawn[prompt.prompt_ids]
            continue
        num_kept += 1
        texts = [s.text for s in found.at(1.0).samples]
        assert [s.text for s in prompt.samples] == texts
    assert num_kept == 20
    assert (folder / "train" / "shard-000000.parquet").is_file()

    other = chosen.model_copy(update={"model": "reference-base"})
    with pytest.raises(DatasetError, match=r"samples are of reference, whose weights"):
        pipeline(other).run("rollouts")


def test_nothing_is_done_twice(trained: Recipe) -> None:
    began = time.monotonic()
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.parquet")}
    pipeline(trained).run("report")
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.parquet")} == before
    assert time.monotonic() - began < 10
    assert [p.state for p in pipeline(trained).plan("report")] == ["finished"] * 7


def test_what_changed_and_what_comes_after_is_done_again(trained: Recipe) -> None:
    changed = trained.model_copy(
        update={"preferences": trained.preferences.model_copy(update={"num_cuts": 2})}
    )
    states = [p.state for p in pipeline(changed).plan("report")]
    assert states == ["finished", "finished", "finished", "new", "waits", "waits", "waits"]


def test_killed_at_random_points_it_ends_the_same(trained: Recipe, tmp_path: Path) -> None:
    chosen = recipe(tmp_path)
    rng = random.Random(0)
    expected = outputs(trained)
    kills = 0
    for _ in range(40):
        process = start(chosen)
        # Later each time, so that a slow machine gets on too.
        try:
            process.wait(timeout=rng.uniform(5.0, 12.0 + 3.0 * kills))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 2
    assert outputs(chosen) == expected


@pytest.mark.parametrize("stage", STAGES[1:])
def test_each_stage_killed_half_way_ends_the_same(
    trained: Recipe, tmp_path: Path, stage: str
) -> None:
    chosen = recipe(tmp_path)
    for done in STAGES[: STAGES.index(stage)]:
        finished = pipeline(trained).folder(done)
        shutil.copytree(finished, tmp_path / finished.name)
    process = start(chosen, stage)
    folder: list[Path] = []
    while process.poll() is None and not folder:
        folder = list(tmp_path.glob(f"{stage}-*"))
        time.sleep(0.01)
    time.sleep({"rollouts": 2.0, "finetune": 3.0, "calibrate": 3.0, "report": 0.3}.get(stage, 0.0))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(chosen, stage).wait() == 0
    manifest, expected = pipeline(chosen).manifest(stage), pipeline(trained).manifest(stage)
    assert manifest is not None and expected is not None
    assert {k: v for k, v in manifest.outputs.items() if "training.png" not in k} == {
        k: v for k, v in expected.outputs.items() if "training.png" not in k
    }


def shared(trained: Recipe, **changes: Any) -> Recipe:
    """Another fine-tuning on the same rollouts."""
    finetune = trained.finetune.model_copy(update=changes)
    return trained.model_copy(update={"finetune": finetune})


@pytest.mark.parametrize("memory_is_short", [False, True])
def test_adapters_are_merged_on_export(trained: Recipe, memory_is_short: bool) -> None:
    from selfeval_backend.training.recipe import LoraSettings

    saving = {"gradient_checkpointing": True, "bf16": "yes"} if memory_is_short else {}
    chosen = shared(trained, lora=LoraSettings(rank=4), **saving)
    folder = pipeline(chosen).run("finetune")
    assert not list((folder / "model").glob("adapter*"))
    assert (folder / "model" / "model.safetensors").is_file()
    figures = pipeline(chosen).manifest("finetune")
    assert figures is not None
    with pytest.warns(UserWarning, match="not calibrated"):
        loaded = load_model(folder / "model", engine="transformers")
    asyncio.run(loaded.aclose())


def test_a_model_without_branches_is_trained_all_the_same(trained: Recipe) -> None:
    chosen = shared(trained, branches="never")
    pipeline(chosen).run("finetune")
    plain, branched = (pipeline(r).manifest("finetune") for r in (chosen, trained))
    assert plain is not None and branched is not None
    assert plain.figures["branches"] is False
    for name in ("eval_label", "eval_pair_accuracy_whole", "eval_pair_accuracy_half"):
        there = branched.figures["phases"]["preferences"][name]
        assert plain.figures["phases"]["preferences"][name] == pytest.approx(there, abs=0.02)


def test_two_processes_train_together(trained: Recipe) -> None:
    chosen = shared(trained, batch_size=4, save_steps=3)
    launcher = (
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_port", "29611"),
    )
    process = start(chosen, "finetune", *launcher)
    assert process.wait() == 0, (chosen.folder / "said.txt").read_text()
    manifest = pipeline(chosen).manifest("finetune")
    assert manifest is not None
    assert "model/model.safetensors" in manifest.outputs


def test_a_ray_cluster_draws_the_same_shards(trained: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    rollouts = trained.rollouts.model_copy(update={"ray_workers": 2})
    chosen = trained.model_copy(update={"folder": tmp_path, "rollouts": rollouts})
    assert start(chosen, "rollouts").wait() == 0, (tmp_path / "said.txt").read_text()
    there, here = (pipeline(r).manifest("rollouts") for r in (chosen, trained))
    assert there is not None and here is not None
    assert there.outputs == here.outputs


@pytest.mark.parametrize(
    ("sections", "error", "what"),
    [
        ({"model": "/no/such/folder"}, AICError, "no folder"),
        ({"win_or_tie_label": "Yes, never."}, SelfEvaluationError, "same token"),
        (
            {"rewards": {"kind": "function", "function": "builtins:pow"}},
            DatasetError,
            "rewards failed",
        ),
        (
            {"rewards": {"kind": "function", "function": "builtins:len"}},
            ConfigurationError,
            "a function of 3 arguments",
        ),
        ({"rewards": {"kind": "function", "function": "no.module:f"}}, ConfigurationError, "no"),
    ],
)
def test_what_cannot_work_is_said(
    trained: Recipe, sections: dict[str, Any], error: type[Exception], what: str
) -> None:
    chosen = Recipe.model_validate({**BODY, "folder": str(trained.folder), **sections})
    with pytest.raises(error, match=what):
        pipeline(chosen).run("preferences")
