"""A recording repeats what a live run does, and goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    DatasetError,
    EngineError,
)
from selfeval_backend.evaluation.catalogue import catalogue
from selfeval_backend.evaluation.comparison import default_checkpoints
from selfeval_backend.evaluation.live import run_live
from selfeval_backend.evaluation.replaying import replay_methods
from selfeval_backend.evaluation.tasks import ReferenceTask, TaskItem
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record
from selfeval_backend.samples.store import load_recording
from selfeval_backend.selfeval import SelfEvalConfig
from tests.conftest import ModelFactory
from tests.unit.samples.puzzler import Puzzler

PLAN = RecordingPlan(num_samples=4, checkpoints=(8,), seed=3, shard_prompts=2)


@dataclass(frozen=True)
class Judged:
    """A task of a few prompts with one scorer."""

    reward: Callable[[str], float]
    name: str = "judged"

    @property
    def items(self) -> tuple[TaskItem, ...]:
        texts = [item.prompt for item in ReferenceTask(2, seed=3).items]
        return tuple(
            TaskItem(prompt=text, reward=self.reward, prompt_id=f"j{place}")
            for place, text in enumerate(texts)
        )


async def test_a_replay_agrees_with_a_live_run(make_model: ModelFactory, tmp_path: Path) -> None:
    task = ReferenceTask(5, seed=3)
    policy = {"threshold": 0.9, "prune_at": [8], "keep_fraction": 0.25}
    model = make_model(Puzzler(unsure_at=(8,)), policy=policy)

    await record(model, task, PLAN, tmp_path)
    recording = load_recording(tmp_path)
    found = catalogue(recording)
    # One sample is the mean over all samples in a replay, and one draw in a live run.
    methods = [replace(method, rotations=1) for method in found.methods]
    live = await run_live(model, task, methods, seed=PLAN.seed)
    replayed = list(zip(*replay_methods(recording, methods), strict=True))

    assert {"self-certainty", "DeepConf"} == set(found.left_out)
    by_name = {m.name: list(r) for m, r in zip(methods, replayed, strict=True)}
    assert set(live) >= {"greedy", "adaptive+pruning", "adaptive-consistency", "weighted vote"}
    for name, run in live.items():
        assert [(r.reward, r.num_samples, r.generated_tokens) for r in run.results] == [
            (r.reward, r.num_samples, r.generated_tokens) for r in by_name[name]
        ], name
    assert live["adaptive"].tokens == sum(
        r.generated_tokens + r.self_evaluation_tokens for r in by_name["adaptive"]
    )


async def test_tokens_are_drawn_as_the_plan_says_and_the_recording_knows_it(
    make_model: ModelFactory, tmp_path: Path
) -> None:
    drawn = {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    task, plan = ReferenceTask(1, seed=3), replace(PLAN, **drawn)
    # What the model was tuned for is not what was recorded: methods are of the recording.
    model = make_model(Puzzler(), policy={"top_k": 3, "top_p": 0.1})
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)

    await record(model, task, plan, tmp_path)
    assert all(call.params.shaping == drawn for call in engine.stream_calls)
    recording = load_recording(tmp_path)
    assert recording.info.sampling == {"temperature": 1.0, **drawn}
    engine.stream_calls.clear()
    await run_live(model, task, catalogue(recording).methods, seed=PLAN.seed)
    assert engine.stream_calls
    assert all(call.params.shaping == drawn for call in engine.stream_calls)
    with pytest.raises(DatasetError, match=r"differ in top_k \(20 and 0\)"):
        await record(model, task, replace(plan, top_k=0), tmp_path)


async def test_a_killed_run_goes_on(
    make_model: ModelFactory, model: SelfEvaluatingModel, tmp_path: Path
) -> None:
    task = ReferenceTask(5, seed=3)
    puzzler, num_calls = Puzzler(), 0

    def dies(call):  # type: ignore[no-untyped-def]  # a script
        nonlocal num_calls
        num_calls += 1
        if num_calls > 2 * 8 + 3:
            raise EngineError("power cut")
        return puzzler(call)

    dying = make_model(dies, policy=model.evaluator.config.policy)
    with pytest.raises(EngineError, match="power cut"):
        await record(dying, task, PLAN, tmp_path)
    assert len(load_recording(tmp_path).prompts) == 2

    told: list[tuple[str, int, int]] = []
    await record(model, task, PLAN, tmp_path, progress=lambda *progress: told.append(progress))
    at_once = tmp_path / "at once"
    await record(model, task, PLAN, at_once)

    assert told == [("sampling reference", 4, 5), ("sampling reference", 5, 5)]
    assert load_recording(tmp_path).prompts == load_recording(at_once).prompts
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    assert engine.num_open == 0


async def test_other_settings_do_not_go_on_with_it(
    model: SelfEvaluatingModel, tmp_path: Path
) -> None:
    task = ReferenceTask(2, seed=3)
    await record(model, task, PLAN, tmp_path)

    with pytest.raises(DatasetError, match=r"differ in seed \(3 and 4\)"):
        await record(model, task, replace(PLAN, seed=4), tmp_path)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda _: float("nan"), "the reward is nan, expected a finite number"),
        (lambda text: float(text[1000]), "IndexError: string index out of range"),
    ],
)
async def test_a_scorer_that_fails_is_named_with_its_row(
    model: SelfEvaluatingModel, tmp_path: Path, reward: Callable[[str], float], message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"prompt 'j\d', sample 0 at temperature 1: {message}"):
        await record(model, Judged(reward), PLAN, tmp_path)
    with pytest.raises(DatasetError, match=r"16 of 16 rewards failed, more than max_error_share"):
        load_recording(tmp_path)
    kept = load_recording(tmp_path, max_error_share=1.0)  # what was drawn is not lost
    assert (kept.num_errors, kept.worst_reward) == (16, 0.0)


async def test_what_cannot_be_recorded_is_refused(make_model: ModelFactory, tmp_path: Path) -> None:
    blind = make_model(Puzzler(), evaluates_mid_generation=False)
    with pytest.raises(ConfigurationError, match=r"checkpoints: .* cannot evaluate mid-generation"):
        await record(blind, ReferenceTask(1, seed=3), PLAN, tmp_path)
    assert default_checkpoints(blind, max_tokens=None) == ()

    model = make_model(Puzzler(), policy={"prune_at": [12], "keep_fraction": 0.5})
    assert default_checkpoints(model, max_tokens=64) == (8, 12, 16, 32)
    with pytest.raises(ConfigurationError, match="shard_prompts"):
        RecordingPlan(shard_prompts=0)
    with pytest.raises(ConfigurationError, match="max_samples"):
        RecordingPlan(num_samples=0)


class Renamed:
    """A task whose prompts have other names."""

    name = "renamed"

    def __init__(self, *names: str) -> None:
        items = ReferenceTask(len(names) or 1, seed=3).items
        self.items = tuple(
            replace(item, prompt_id=name) for item, name in zip(items, names, strict=False)
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a", "a"), "two prompts .* are called 'a'"), (("",), "no prompt_id"), ((), "no prompts")],
)
async def test_prompts_need_names_of_their_own(
    model: SelfEvaluatingModel, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        await record(model, Renamed(*names), PLAN, tmp_path)


def test_the_chat_of_tests_can_ask_the_untrained_question(chat: ScriptedChat) -> None:
    assert chat.first_token_id("Yes.") != chat.first_token_id("No.")


async def test_a_sample_that_runs_on_leaves_room_for_every_question(
    chat: ScriptedChat, config: SelfEvalConfig, tmp_path: Path
) -> None:
    endless = [chat.response("41 = 19 + 25 - 3 " * 100, 0.5)]
    engine = ScriptedEngine(endless, context_length=200, repeat=True)
    shorter = config.model_copy(update={"question": "Over?"})  # than the untrained one
    model = SelfEvaluatingModel(name="endless", engine=engine, chat=chat, config=shorter)
    await record(model, ReferenceTask(1, seed=3), replace(PLAN, checkpoints=()), tmp_path)
    (prompt,) = load_recording(tmp_path).prompts
    assert {sample.finish_reason for sample in prompt.samples} == {"length"}
    assert all(s.untrained_logprobs for s in prompt.samples if s.temperature == 1.0)
    room = 200 - len(prompt.prompt_ids) - len(shorter.question)
    plan = replace(PLAN, checkpoints=(), max_tokens=room - 20)
    with pytest.raises(ContextLengthError):  # refused, and not made shorter
        await record(model, ReferenceTask(1, seed=3), plan, tmp_path / "asked")
