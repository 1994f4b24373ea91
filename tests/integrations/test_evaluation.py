"""A recording of the reference model: replays agree with real runs, signals with their source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from selfeval_backend.engine.transformers.token_signals import TokenSignals
from selfeval_backend.evaluation.catalogue import catalogue
from selfeval_backend.evaluation.live import run_live
from selfeval_backend.evaluation.replaying import replay_methods
from selfeval_backend.evaluation.tasks import ReferenceTask
from selfeval_backend.model import REFERENCE_FOLDER, load_model
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record
from selfeval_backend.samples.store import load_recording

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAMES = {"greedy", "adaptive", "pruning", "adaptive+pruning", "majority vote"}


async def test_a_replay_is_what_really_happens(tmp_path: Path) -> None:
    model = load_model("reference", engine="transformers")
    checkpoints = model.settings().prune_at  # as it ships
    task = ReferenceTask(6, seed=1)
    plan = RecordingPlan(num_samples=4, checkpoints=checkpoints, seed=1)
    signals = TokenSignals.load(str(REFERENCE_FOLDER))
    try:
        await record(model, task, plan, tmp_path, signals=signals)
        recording = load_recording(tmp_path)
        found = catalogue(recording)
        methods = [method for method in found.methods if method.name in NAMES]
        live = await run_live(model, task, methods, seed=1)
    finally:
        await model.aclose()

    assert not found.left_out
    assert {method.name for method in methods} == NAMES
    replayed = zip(*replay_methods(recording, methods), strict=True)
    for method, results in zip(methods, replayed, strict=True):
        assert live[method.name].results == results, method.name


def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    options = ("--n", "75", "--samples", "2", "--checkpoints", "none", "--no-token-signals")
    command = [sys.executable, "-m", "selfeval_backend", "eval", *options, "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        while not (tmp_path / "recording.json").exists():
            assert killed.poll() is None, "ended before it had written anything"
            time.sleep(0.02)
        killed.kill()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert 0 < len(load_recording(tmp_path).prompts) < 75

    again = subprocess.run(command, capture_output=True, text=True, check=False)

    assert again.returncode == 0, again.stderr
    assert "75 prompts x 2 samples" in again.stdout
    assert len(load_recording(tmp_path).prompts) == 75
    assert all(path.read_bytes() == before for path, before in kept.items())


def test_token_signals_are_of_the_next_token_distributions() -> None:
    signals = TokenSignals.load(str(REFERENCE_FOLDER))
    prompt, responses = (1, 4, 50, 60, 2, 5), [(70, 80, 90), (70,)]

    longer, shorter = signals.measure([prompt, prompt], responses)

    with torch.inference_mode():
        logits = signals._model(torch.tensor([prompt + responses[0]])).logits[0]
        logprobs = logits[len(prompt) - 1 :].log_softmax(-1)
    expected = -logprobs.topk(20, dim=-1).values.mean(-1)
    assert longer.token_confidences == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(shorter.token_confidences) == 2  # one for the token, one for what comes after it
    assert shorter.token_confidences == pytest.approx(longer.token_confidences[:2], abs=1e-4)
    uniform = torch.full_like(logprobs, 1 / logprobs.shape[-1])
    divergence = torch.nn.functional.kl_div(logprobs, uniform, reduction="sum") / len(logprobs)
    assert longer.self_certainty == pytest.approx(float(divergence), abs=1e-4)


HANGS = """
import pathlib
def score(response, row):
    pathlib.Path("begun").touch()
    while True:
        pass
"""


def test_ctrl_c_while_a_scorer_hangs_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "own_hangs.py").write_text(HANGS)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Use 3 and 4 to make 7.", "answer": "7"}\n')
    options = ("--task", "mine.jsonl", "--scorer", "own_hangs:score", "--scorer-timeout", "1000")
    small = ("--samples", "2", "--checkpoints", "none", "--no-token-signals")
    command = [sys.executable, "-m", "selfeval_backend", "eval", *options, *small]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, env=environment) as run:
        while not (tmp_path / "begun").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
