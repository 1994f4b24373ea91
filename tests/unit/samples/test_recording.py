"""A second run uses what it can of the first one, and says what it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selfeval_backend.errors import DatasetError, EngineError
from selfeval_backend.evaluation.tasks import FileTask, ReferenceTask
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples import recording as recording_module
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record
from selfeval_backend.samples.records import PromptRecord, Recording
from selfeval_backend.samples.store import load_recording
from tests.conftest import ModelFactory
from tests.unit.samples.puzzler import Puzzler

PLAN = RecordingPlan(num_samples=2, seed=3, shard_prompts=2)
TEXTS = [item.prompt for item in ReferenceTask(6, seed=3).items]
FIRST = (
    {"id": "a", "prompt": TEXTS[0], "answer": "1"},
    {"id": "b", "prompt": TEXTS[1], "answer": "2"},
    {"id": "c", "prompt": TEXTS[2], "answer": "3"},
)


class Runs:
    """Runs of one command on one folder; counts what is drawn."""

    def __init__(self, make_model: ModelFactory, folder: Path) -> None:
        self.folder = folder
        self.num_drawn = 0
        puzzler = Puzzler()

        def counted(call):  # type: ignore[no-untyped-def]  # a script
            self.num_drawn += 1
            return puzzler(call)

        self._make = lambda **given: make_model(counted, **given)
        self.model: SelfEvaluatingModel = self._make()

    async def __call__(
        self,
        rows: Sequence[Mapping[str, str]],
        scorer: str = "exact",
        *,
        plan: RecordingPlan = PLAN,
        n: int | None = None,
    ) -> tuple[Recording, list[str]]:
        """Return what is there after a run, and what it said."""
        path = self.folder.parent / "task.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        task = FileTask(path, scorer=scorer, n=n, scorer_timeout=30, scorer_workers=1)
        self.num_drawn, said = 0, []
        try:
            await record(self.model, task, plan, self.folder, max_error_share=1.0, log=said.append)
        finally:
            task.close()
        return load_recording(self.folder, max_error_share=1.0), said


@pytest.fixture
def runs(make_model: ModelFactory, tmp_path: Path) -> Runs:
    return Runs(make_model, tmp_path / "kept")


def rewards(recording: Recording) -> dict[str, set[float]]:
    return {p.prompt_id: {s.reward for s in p.samples} for p in recording.prompts}


def samples(recording: Recording) -> dict[str, list[tuple[int, ...]]]:
    return {p.prompt: [s.token_ids for s in p.samples] for p in recording.prompts}


async def test_the_same_again_draws_and_writes_nothing(runs: Runs) -> None:
    await runs(FIRST)
    before = {path: path.stat().st_mtime_ns for path in runs.folder.glob("*.parquet")}
    _, said = await runs(FIRST)
    assert (runs.num_drawn, said) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in runs.folder.glob("*.parquet")} == before


async def test_another_scorer_makes_rewards_anew_of_the_same_samples(runs: Runs) -> None:
    first, _ = await runs(FIRST)
    second, said = await runs(FIRST, "regex:(?s).*")
    assert runs.num_drawn == 0
    assert samples(first) == samples(second)
    assert said == [
        "rewards of 3 prompts (a, b, c) are made anew: they were of exact, and are of regex:(?s).*"
    ]
    assert second.info.scorer == "regex:(?s).*"
    third, _ = await runs([row | {"answer": "####"} for row in FIRST], "regex:####")
    assert rewards(third) == {"a": {1.0}, "b": {1.0}, "c": {1.0}}


@pytest.mark.parametrize("helped", [False, True])
async def test_a_function_whose_source_changed_scores_anew(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "def score(response, row):\n    {}return {}\n"
    (tmp_path / "own_again.py").write_text(own.format("import aid; ", "aid.N") if helped else "")
    changing = tmp_path / ("aid.py" if helped else "own_again.py")
    for value in ("1", "0"):  # of one length, within one second
        changing.write_text(f"N = {value}" if helped else own.format("", value))
        found, said = await runs(FIRST, "own_again:score")
        assert rewards(found) == {name: {float(value)} for name in "abc"}
    assert runs.num_drawn == 0
    assert [line.partition(":")[0] for line in said] == [
        "rewards of 3 prompts (a, b, c) are made anew"
    ]


async def test_another_answer_makes_the_rewards_of_its_prompt_anew(runs: Runs) -> None:
    await runs(FIRST, "regex:(####)")
    changed = [FIRST[0] | {"answer": "####"}, *FIRST[1:]]
    found, said = await runs(changed, "regex:(####)")
    assert rewards(found) == {"a": {1.0}, "b": {0.0}, "c": {0.0}}
    assert runs.num_drawn == 0
    assert said == [
        "rewards of 1 prompt (a) are made anew: what they are compared with, or their scorer's "
        "code, changed"
    ]


async def test_a_prompt_whose_text_changed_is_drawn_anew_and_no_other(runs: Runs) -> None:
    first, _ = await runs(FIRST)
    changed = [FIRST[0], FIRST[1] | {"prompt": TEXTS[4]}, FIRST[2]]
    second, said = await runs(changed)
    assert runs.num_drawn == 4  # two of each kind, but for what they share
    assert samples(second).keys() == {TEXTS[0], TEXTS[4], TEXTS[2]}
    assert samples(second)[TEXTS[0]] == samples(first)[TEXTS[0]]
    assert "drawn anew: 1 prompt (b), as the text or the chat template changed" in said
    back, said = await runs(FIRST)
    assert runs.num_drawn == 0
    assert samples(back) == samples(first)
    assert any("1 prompt (b) are taken back from" in line for line in said)


async def test_prompts_that_moved_or_have_other_names_keep_their_samples(runs: Runs) -> None:
    first, _ = await runs(FIRST)
    moved = [dict(FIRST[2]), FIRST[0] | {"id": "x"}, FIRST[1] | {"id": "a"}]
    second, _ = await runs(moved)
    assert runs.num_drawn == 0
    assert samples(second) == samples(first)
    assert {p.prompt_id: p.prompt for p in second.prompts} == {
        "c": TEXTS[2],
        "x": TEXTS[0],
        "a": TEXTS[1],
    }


async def test_fewer_prompts_and_more_again(runs: Runs) -> None:
    first, _ = await runs(FIRST)
    fewer, said = await runs(FIRST, n=1)
    assert samples(fewer).keys() == {TEXTS[0]}
    assert "no part of this task as it is now: 2 prompts (b, c)" in said
    again, said = await runs(FIRST)
    assert runs.num_drawn == 0
    assert samples(again) == samples(first)
    assert rewards(again) == rewards(first)
    assert any("2 prompts (b, c) are taken back from" in line for line in said)


async def test_what_is_taken_back_has_rewards_of_the_scorer_now(runs: Runs) -> None:
    await runs(FIRST)
    await runs(FIRST, n=1)
    found, _ = await runs([row | {"answer": "####"} for row in FIRST], "regex:####")
    assert runs.num_drawn == 0
    assert rewards(found) == {name: {1.0} for name in "abc"}


async def test_new_prompts_before_the_old_ones_overwrite_nothing(runs: Runs) -> None:
    first, _ = await runs(FIRST)
    more = [{"id": f"n{i}", "prompt": TEXTS[i], "answer": "1"} for i in (3, 4)]
    second, _ = await runs([*more, *FIRST])
    assert samples(second).items() >= samples(first).items()
    assert len(second.prompts) == 5


async def test_two_prompts_of_one_text_have_samples_of_their_own(runs: Runs) -> None:
    twice = [FIRST[0], FIRST[0] | {"id": "b"}]
    first, _ = await runs(twice)
    assert len({p.samples[0].seed for p in first.prompts}) == 2
    _, said = await runs(twice)
    assert (runs.num_drawn, said) == (0, [])


async def test_a_text_that_comes_twice_where_it_has_moved_can_be_read(runs: Runs) -> None:
    await runs(FIRST[:1])
    found, _ = await runs([FIRST[0] | {"id": "new"}, FIRST[0]])
    assert [p.prompt_id for p in found.prompts] == ["new", "a"]
    again, said = await runs([FIRST[0] | {"id": "new"}, FIRST[0]])
    assert (runs.num_drawn, said, again) == (0, [], found)


async def test_another_model_or_setting_is_refused_by_name(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runs(FIRST)
    for plan, name in (
        (replace(PLAN, seed=4), r"seed \(3 and 4\)"),
        (replace(PLAN, untrained_question=False), "untrained_question"),
    ):
        with pytest.raises(DatasetError, match=rf"differ in {name}.*Take another folder"):
            await runs(FIRST, plan=plan)
    monkeypatch.setattr(recording_module, "files_of", lambda *_: "other weights")
    _, said = await runs(FIRST)  # they were not known before
    assert "they are taken to be of this model" in said[0]
    monkeypatch.setattr(recording_module, "files_of", lambda *_: "others still")
    with pytest.raises(DatasetError, match="differ in model_files: weights, config, tokenizer"):
        await runs(FIRST)


async def test_another_policy_is_no_other_recording(runs: Runs) -> None:
    await runs(FIRST)
    runs.model = runs._make(policy={"threshold": 0.5})
    found, said = await runs(FIRST)
    assert (runs.num_drawn, said) == (0, [])
    assert found.info.selfeval.policy == {"threshold": 0.5}


FLAKY = """
import pathlib
def score(response, row):
    if row["id"] == "b" and not pathlib.Path("well").exists():
        raise ValueError("not now")
    return 5.0 - 10 * (row["id"] == "c")
"""


async def test_failed_rewards_count_as_the_worst_and_are_tried_again(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flaky.py").write_text(FLAKY)
    found, _ = await runs(FIRST, "flaky:score")
    assert rewards(found) == {"a": {5.0}, "b": {-5.0}, "c": {-5.0}}
    assert (found.num_errors, found.num_samples) == (4, 12)
    with pytest.raises(DatasetError, match=r"4 of 12 rewards failed.*ValueError: not now"):
        load_recording(runs.folder)
    (tmp_path / "well").touch()
    found, said = await runs(FIRST, "flaky:score")
    assert (rewards(found)["b"], found.num_errors, runs.num_drawn) == ({5.0}, 0, 0)
    assert said == ["rewards of 1 prompt (b) are made anew: some had failed"]


async def test_a_scorer_that_always_fails_stops_the_drawing(runs: Runs) -> None:
    path = runs.folder.parent / "task.jsonl"
    rows = [{"id": f"{i}", "prompt": text, "answer": "1"} for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    task = FileTask(path)
    failing = replace(task.items[0], reward=lambda _: float("nan"))
    task.items = tuple(
        replace(failing, prompt=item.prompt, prompt_id=item.prompt_id) for item in task.items
    )
    with pytest.raises(DatasetError, match=r"8 of 8 rewards failed"):
        await record(runs.model, task, PLAN, runs.folder)
    assert len(load_recording(runs.folder, max_error_share=1.0).prompts) == 2


async def test_a_scorer_that_comes_back_finds_its_rewards(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await runs(FIRST, "regex:(####)")
    await runs(FIRST, "exact")

    def never(*_: object) -> PromptRecord:
        raise AssertionError("nothing is left to score")

    monkeypatch.setattr(recording_module, "_judged", never)
    again, said = await runs(FIRST, "regex:(####)")
    assert (runs.num_drawn, said) == (0, [])
    assert again == first


async def test_what_was_drawn_and_scored_is_never_written_again(runs: Runs) -> None:
    await runs(FIRST)
    kept = {path: path.read_bytes() for path in runs.folder.glob("*.parquet")}
    await runs(FIRST[:2], "regex:x")
    await runs([*FIRST, {"id": "d", "prompt": TEXTS[3], "answer": "1"}])
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(load_recording(runs.folder).prompts) == 4


@pytest.mark.parametrize("dies_at", [1, 2])
async def test_a_run_that_is_killed_while_rewards_are_made_anew_loses_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    first, _ = await runs(FIRST)
    monkeypatch.setattr(recording_module, "_AT_ONCE", 2)
    write, num_written = recording_module.write_rewards, 0

    def dies(*args: object) -> None:
        nonlocal num_written
        num_written += 1
        if num_written == dies_at:
            raise EngineError("power cut")
        write(*args)  # type: ignore[arg-type]  # as it is called

    monkeypatch.setattr(recording_module, "write_rewards", dies)
    with pytest.raises(EngineError, match="power cut"):
        await runs(FIRST, "regex:x")
    assert load_recording(runs.folder) == first  # as it was
    monkeypatch.setattr(recording_module, "write_rewards", write)
    found, _ = await runs(FIRST, "regex:x")
    assert runs.num_drawn == 0
    assert samples(found) == samples(first)


@pytest.mark.parametrize("dies_in", ["write_samples", "write_rewards", "write_listing"])
async def test_a_run_that_is_killed_while_it_writes_what_it_drew_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    first, _ = await runs(FIRST[:2])
    real = getattr(recording_module, dies_in)

    def dies(folder: Path, *args: object) -> None:
        if dies_in == "write_samples" or len(list(folder.glob("samples-*.parquet"))) == 2:
            raise EngineError("power cut")
        real(folder, *args)

    monkeypatch.setattr(recording_module, dies_in, dies)
    with pytest.raises(EngineError, match="power cut"):
        await runs(FIRST)
    assert load_recording(runs.folder) == first
    monkeypatch.setattr(recording_module, dies_in, real)
    found, _ = await runs(FIRST)
    assert runs.num_drawn == (4 if dies_in == "write_samples" else 0)
    assert samples(found).items() >= samples(first).items()
    assert rewards(found).keys() == {"a", "b", "c"}
