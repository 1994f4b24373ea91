"""A folder of samples: whole files, resumable, and the same however often a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfeval_backend.chat import Message
from selfeval_backend.engine.base import Engine
from selfeval_backend.engine.scripted import (
    ScriptedChat,
    ScriptedEngine,
    ScriptedResponse,
    StreamCall,
)
from selfeval_backend.errors import DatasetError, EngineError
from selfeval_backend.samples.filling import Job, fill
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.recorder import Draw, Recorder, RecordingPlan
from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.samples.store import read_samples, sample_files
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from tests.unit.samples.recorded import info

CHAT = ScriptedChat()
INFO = info(max_tokens=40, checkpoints=())
PLAN = RecordingPlan(num_samples=2, max_tokens=40, evaluate=False, untrained_question=False)


def prompt(number: int, text: str = "Say it.") -> Prompt:
    messages = (Message(role="user", content=f"{number}: {text}"),)
    return Prompt(prompt_id=f"{number:016x}", split="train", messages=messages)


def by_seed(call: StreamCall) -> ScriptedResponse:
    """Answer with the seed, so that every sample differs and repeats."""
    return CHAT.response(f"{call.params.seed} {call.params.temperature}", 0.5)


def job(
    engine: Engine | None = None,
    *,
    numbers: range = range(10),
    texts: Mapping[int, str] = {},
    kept: KeptSamples | None = None,
    plan: RecordingPlan = PLAN,
) -> Job:
    def draws() -> Iterator[Draw]:
        for n in numbers:
            yield Draw(prompt=prompt(n, texts.get(n, "Say it.")), seed=n, plan=plan)

    def open_recorder() -> Recorder:
        evaluator = SelfEvaluator(SelfEvalConfig(), CHAT)
        return Recorder(engine=engine or ScriptedEngine(by_seed), chat=CHAT, evaluator=evaluator)

    return Job(info=INFO, draws=draws, open_recorder=open_recorder, prompts_per_file=4, kept=kept)


def draw(folder: Path, engine: Engine | None = None, **given: Any) -> dict[str, Any]:
    return fill(job(engine, **given), folder, name="rollouts", progress=lambda *_: None)


def rows(folder: Path) -> list[PromptRecord]:
    return [record for path in sample_files(folder) for record in read_samples(path)]


def test_every_prompt_has_its_samples_in_order(tmp_path: Path) -> None:
    figures = draw(tmp_path)
    found = rows(tmp_path)
    assert [row.prompt_id for row in found] == [f"{n:016x}" for n in range(10)]
    assert [len(sample_files(tmp_path)), figures["prompts"], figures["samples"]] == [3, 10, 40]
    texts = {sample.text for row in found for sample in row.samples}
    assert len(texts) == 40
    assert [s.temperature for s in found[0].samples] == [1.0, 1.0, 0.0, 0.5]
    assert len({row.key for row in found}) == 10
    assert figures["generated_tokens"] == sum(len(text) + 1 for text in texts)


def test_a_run_that_failed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    draw(tmp_path / "whole")

    def breaks(call: StreamCall) -> ScriptedResponse:
        if "5:" in CHAT.decode(call.prompt_ids):
            return ScriptedResponse(token_ids=(1, 2), fail_after=1)
        return by_seed(call)

    with pytest.raises(EngineError):
        draw(tmp_path / "parts", ScriptedEngine(breaks))
    assert len(sample_files(tmp_path / "parts")) == 1
    counted: list[StreamCall] = []

    def counts(call: StreamCall) -> ScriptedResponse:
        counted.append(call)
        return by_seed(call)

    draw(tmp_path / "parts", ScriptedEngine(counts))
    assert len(counted) == 4 * 6  # the four prompts of the first shard were there
    names = [path.name for path in sample_files(tmp_path / "whole")]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_nothing_is_started_where_nothing_is_left(tmp_path: Path) -> None:
    before = draw(tmp_path)

    def never(call: StreamCall) -> ScriptedResponse:
        raise AssertionError(call)

    assert draw(tmp_path, ScriptedEngine(never)) == before


def test_a_prompts_samples_do_not_depend_on_the_others(tmp_path: Path) -> None:
    draw(tmp_path / "many")
    draw(tmp_path / "one", numbers=range(7, 8))
    assert rows(tmp_path / "one")[0] == rows(tmp_path / "many")[7]


def test_prompts_that_do_not_fit_are_kept_with_the_reason(tmp_path: Path) -> None:
    engine = ScriptedEngine(by_seed, context_length=160)
    figures = draw(tmp_path, engine, texts={3: "x" * 80})
    assert (figures["errors"], figures["samples"]) == (1, 36)
    refused = rows(tmp_path)[3]
    assert refused.samples == () and refused.error is not None
    assert "of context" in refused.error
    small = ScriptedEngine(by_seed, context_length=30)
    with pytest.raises(DatasetError, match="no prompt could be sampled"):
        draw(tmp_path / "small", small)


def test_a_full_disk_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pq.write_table

    def full(table: Any, where: Path, **options: Any) -> None:
        if "000001" in str(where):
            raise OSError(28, "No space left on device")
        real(table, where, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples-000000.parquet"]
    monkeypatch.setattr(pq, "write_table", real)
    assert draw(tmp_path)["samples"] == 40


def kept(folder: Path, **asked: Any) -> KeptSamples:
    return KeptSamples(folder, INFO.model_copy(update=asked))


def test_samples_that_are_kept_are_not_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "before", numbers=range(3, 20))
    counted: list[StreamCall] = []

    def counts(call: StreamCall) -> ScriptedResponse:
        counted.append(call)
        return by_seed(call)

    asked = {"kept": kept(tmp_path / "before"), "plan": replace(PLAN, annealed=False)}
    draw(tmp_path / "after", ScriptedEngine(counts), **asked)
    assert len(counted) == 2 * 3
    draw(tmp_path / "drawn", plan=replace(PLAN, annealed=False))
    assert rows(tmp_path / "after") == rows(tmp_path / "drawn")


def test_no_engine_is_started_where_all_samples_are_kept(tmp_path: Path) -> None:
    draw(tmp_path / "before")

    def never() -> Recorder:
        raise AssertionError("nothing is left to draw")

    asked = replace(job(kept=kept(tmp_path / "before")), open_recorder=never)
    found = fill(asked, tmp_path / "after", name="x", progress=lambda *_: None)
    assert found["samples"] == 20


def test_a_kept_sample_that_is_too_long_is_cut(tmp_path: Path) -> None:
    draw(tmp_path)
    whole = rows(tmp_path)[0].samples[0]

    def found(plan: RecordingPlan) -> PromptRecord | None:
        return kept(tmp_path).record(Draw(prompt=prompt(0), seed=0, plan=plan))

    record = found(replace(PLAN, max_tokens=5))
    assert record is not None
    cut = record.samples[0]
    assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[:5], "length")
    assert cut.sum_logprob is None  # of the whole alone
    assert found(replace(PLAN, num_samples=3)) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temperature": 0.5}, r"with temperature 1\.0.*Set rollouts\.temperature to 1\.0"),
        ({"top_p": 0.9}, r"with top_p 1\.0, and 0\.9 is asked for"),
        ({"max_tokens": 41}, r"Set rollouts\.max_tokens to 40"),
        ({"model": "somebody"}, "samples are of nobody, whose weights"),
    ],
)
def test_samples_that_were_drawn_otherwise_are_refused(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    draw(tmp_path)
    with pytest.raises(DatasetError, match=message):
        kept(tmp_path, **asked)


def test_a_folder_without_samples_keeps_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no samples there"):
        kept(tmp_path)
