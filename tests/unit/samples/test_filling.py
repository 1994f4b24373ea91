"""A folder of samples: whole files, resumable, and the same however often a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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
from selfeval_backend.samples.filling import fill
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.recorder import Draw, RecordingPlan
from selfeval_backend.samples.records import PromptRecord, RecordingInfo
from selfeval_backend.samples.store import read_samples, sample_files
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from tests.unit.samples.recorded import info

CHAT = ScriptedChat()
PLAN = RecordingPlan(num_samples=2, max_tokens=40, evaluate=False, untrained_question=False)


def prompt(number: int, text: str = "Say it.") -> Prompt:
    messages = (Message(role="user", content=f"{number}: {text}"),)
    return Prompt(prompt_id=f"{number:016x}", split="train", messages=messages)


def by_seed(call: StreamCall) -> ScriptedResponse:
    """Answer with the seed, so that every sample differs and repeats."""
    return CHAT.response(f"{call.params.seed} {call.params.temperature}", 0.5)


@dataclass
class Drawing:
    """Prompts that are numbers."""

    engine: Engine | None = None
    numbers: range = range(10)
    texts: dict[int, str] = field(default_factory=dict)
    kept: KeptSamples | None = None
    plan: RecordingPlan = PLAN
    prompts_per_file: int = 4
    chat: ScriptedChat = CHAT
    info: RecordingInfo = field(default_factory=lambda: info(max_tokens=40, checkpoints=()))
    evaluator: SelfEvaluator = field(default_factory=lambda: SelfEvaluator(SelfEvalConfig(), CHAT))

    def draws(self) -> Iterator[Draw]:
        for n in self.numbers:
            text = self.texts.get(n, "Say it.")
            yield Draw(prompt=prompt(n, text), seed=n, plan=self.plan)

    def open_engine(self) -> Engine:
        return self.engine or ScriptedEngine(by_seed)


def draw(folder: Path, engine: Engine | None = None, **given: Any) -> dict[str, Any]:
    job = Drawing(engine=engine, **given)
    return fill(job, folder, name="rollouts", progress=lambda *_: None)


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
    return KeptSamples.load(folder, info(max_tokens=40, checkpoints=(), **asked))


def test_samples_that_are_kept_are_not_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "before", numbers=range(3, 20))
    counted: list[StreamCall] = []

    def counts(call: StreamCall) -> ScriptedResponse:
        counted.append(call)
        return by_seed(call)

    constant = RecordingPlan(
        **{name: getattr(PLAN, name) for name in PLAN.__slots__} | {"annealed": False}
    )
    draw(
        tmp_path / "after",
        ScriptedEngine(counts),
        kept=kept(tmp_path / "before"),
        plan=constant,
    )
    assert len(counted) == 2 * 3
    draw(tmp_path / "drawn", plan=constant)
    assert rows(tmp_path / "after") == rows(tmp_path / "drawn")


def test_no_engine_is_started_where_all_samples_are_kept(tmp_path: Path) -> None:
    draw(tmp_path / "before")

    class Never(Drawing):
        def open_engine(self) -> Engine:
            raise AssertionError("nothing is left to draw")

    job = Never(kept=kept(tmp_path / "before"))
    assert fill(job, tmp_path / "after", name="x", progress=lambda *_: None)["samples"] == 20


def test_a_kept_sample_that_is_too_long_is_cut(tmp_path: Path) -> None:
    draw(tmp_path)
    whole, short = rows(tmp_path)[0].samples[0], RecordingPlan(num_samples=2, max_tokens=5)
    record = rows(tmp_path)[0]
    found = kept(tmp_path).samples(record.prompt_ids, short)
    assert found is not None
    assert (found[0].token_ids, found[0].finish_reason) == (whole.token_ids[:5], "length")
    assert found[0].sum_logprob is None  # of the whole alone
    assert kept(tmp_path).samples(record.prompt_ids, RecordingPlan(num_samples=3)) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temperature": 0.5}, r"with temperature 1.0.*Set rollouts.temperature to 1.0"),
        ({"top_p": 0.9}, r"with top_p 1.0, and 0.9 is asked for"),
        ({"model": "somebody"}, "samples are of nobody, whose weights"),
    ],
)
def test_samples_that_were_drawn_otherwise_are_refused(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    draw(tmp_path)
    with pytest.raises(DatasetError, match=message):
        kept(tmp_path, **asked)
    with pytest.raises(DatasetError, match=r"Set rollouts\.max_tokens to 40"):
        KeptSamples.load(tmp_path, info(max_tokens=41))
    with pytest.raises(DatasetError, match="no samples there"):
        kept(tmp_path / "none")
