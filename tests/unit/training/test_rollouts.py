"""Rollouts to shards: whole, resumable, and the same however often a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from selfeval_backend.training.prompts import Prompt
from selfeval_backend.training.rollouts import Drawing, PlannedDraw, draw_shards
from selfeval_backend.training.shards import iterate_rows, shards_of

CHAT = ScriptedChat()


def prompt(number: int, text: str = "Say it.") -> Prompt:
    messages = (Message(role="user", content=f"{number}: {text}"),)
    return Prompt(key=f"{number:016x}", split="train", messages=messages, answer=None)


def by_seed(call: StreamCall) -> ScriptedResponse:
    """Answer with the seed, so that every sample differs and repeats."""
    return CHAT.response(f"{call.params.seed}", 0.5)


def drawing(**given: Any) -> Drawing:
    facts = {"max_tokens": 40, "top_p": 1.0, "seed": 0, "question_length": 10}
    return Drawing(chat=CHAT, **{**facts, **given})


def draw(
    folder: Path,
    engine: Engine | None = None,
    *,
    numbers: Iterator[int] | range = range(10),
    texts: dict[int, str] | None = None,
    how: Drawing | None = None,
) -> dict[str, Any]:
    def draws() -> Iterator[PlannedDraw]:
        for n in numbers:
            found = prompt(n, (texts or {}).get(n, "Say it."))
            yield PlannedDraw(prompt=found, temperatures=(1.0, 0.5))

    folder.mkdir(exist_ok=True)
    return draw_shards(
        draws,
        folder=folder,
        drawing=how or drawing(),
        open_engine=lambda: engine or ScriptedEngine(by_seed),
        shard_prompts=4,
        name="rollouts",
        progress=lambda *_: None,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(iterate_rows(shards_of(folder)))


def test_tokens_are_drawn_as_the_recipe_says(tmp_path: Path) -> None:
    shaping = {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    engine = ScriptedEngine(by_seed)
    draw(tmp_path, engine, how=drawing(**shaping))
    assert len(engine.stream_calls) == 20
    assert all(call.params.shaping == shaping for call in engine.stream_calls)


def test_every_prompt_has_its_samples_in_order(tmp_path: Path) -> None:
    figures = draw(tmp_path)
    found = rows(tmp_path)
    assert [row["key"] for row in found] == [f"{n:016x}" for n in range(10)]
    assert [len(shards_of(tmp_path)), figures["prompts"], figures["samples"]] == [3, 10, 20]
    texts = {sample["text"] for row in found for sample in row["samples"]}
    assert len(texts) == 20
    assert [s["temperature"] for s in found[0]["samples"]] == [1.0, 0.5]
    assert figures["generated_tokens"] == sum(len(text) + 1 for text in texts)


def test_a_run_that_failed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    draw(tmp_path / "whole")

    def breaks(call: StreamCall) -> ScriptedResponse:
        if "5:" in CHAT.decode(call.prompt_ids):
            return ScriptedResponse(token_ids=(1, 2), fail_after=1)
        return by_seed(call)

    with pytest.raises(EngineError):
        draw(tmp_path / "parts", ScriptedEngine(breaks))
    assert len(shards_of(tmp_path / "parts")) == 1
    counted: list[StreamCall] = []

    def counts(call: StreamCall) -> ScriptedResponse:
        counted.append(call)
        return by_seed(call)

    draw(tmp_path / "parts", ScriptedEngine(counts))
    assert len(counted) == 2 * 6  # the four prompts of the first shard were there
    names = [path.name for path in shards_of(tmp_path / "whole")]
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
    engine = ScriptedEngine(by_seed, context_length=100)
    figures = draw(tmp_path, engine, texts={3: "x" * 80})
    assert (figures["errors"], figures["samples"]) == (1, 18)
    assert "prompt tokens leave room for" in rows(tmp_path)[3]["error"]
    assert rows(tmp_path)[3]["samples"] == []
    small = ScriptedEngine(by_seed, context_length=30)
    with pytest.raises(DatasetError, match="no prompt could be sampled"):
        draw(tmp_path / "small", small)


def test_a_full_disk_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfeval_backend.training import shards

    real = shards.pq.write_table

    def full(table: Any, where: Path, **options: Any) -> None:
        if "000001" in str(where):
            raise OSError(28, "No space left on device")
        real(table, where, **options)

    monkeypatch.setattr(shards.pq, "write_table", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.parquet"]
    monkeypatch.setattr(shards.pq, "write_table", real)
    assert draw(tmp_path)["samples"] == 20
