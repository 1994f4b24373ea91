"""Rows keep their slots' contents, whatever comes, goes, stops and runs."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.transformers.scheduler import Row, Scheduler


def row(prompt: tuple[int, ...] = (1, 2, 3), **options: object) -> Row:
    fields: dict[str, object] = {
        "temperature": 1.0,
        "max_tokens": 100,
        "seed": 0,
        "stop_token_ids": frozenset({99}),
    }
    params = SamplingParams(**{**fields, **options})  # type: ignore[arg-type]  # by name
    return Row(prompt, params, 16)


def opened(scheduler: Scheduler, *rows: Row) -> None:
    """Take rows through admission, as if their prompts had been computed."""
    for each in rows:
        scheduler.enqueue(each)
    new = scheduler.admit()
    scheduler.place(new)
    for each in new:
        each.start(num_cached_prompt_tokens=0)
    scheduler.settle()


STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "pause", "resume", "drop"]), st.integers(0, 30)),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, max_batch=st.integers(1, 5))
def test_running_rows_lie_in_front_and_moves_follow_them(
    steps: list[tuple[str, int]], max_batch: int
) -> None:
    scheduler = Scheduler(max_batch)
    contents: dict[int, Row] = {}  # what a cache would hold, by slot
    rows: list[Row] = []
    for action, number in steps:
        target = rows[number % len(rows)] if rows else None
        if action == "open":
            rows.append(row(prompt=(number % 3 + 1,)))
            scheduler.enqueue(rows[-1])
        elif target is None:
            continue
        elif action == "pause" and target.runs:
            target.state = "paused"
            scheduler.unsettled = True
        elif action == "resume":
            scheduler.enqueue(target)
        elif action == "drop":
            scheduler.drop(target)
        scheduler_moves(scheduler, contents)
        new = scheduler.admit()
        scheduler.place(new)
        for each in new:
            assert each.slot is not None
            each.start(num_cached_prompt_tokens=0)
            contents[each.slot] = each
        scheduler_moves(scheduler, contents)
        placed = [each for each in rows if each.state != "closed" and each.slot is not None]
        assert len(scheduler.running) <= max_batch
        assert [each.slot for each in scheduler.running] == list(range(len(scheduler.running)))
        assert {id(each) for each in scheduler.running} == {id(r) for r in rows if r.runs}
        assert all(contents[each.slot] is each for each in placed if each.slot is not None)
        assert len(scheduler.open_rows) == sum(each.state != "closed" for each in rows)


def scheduler_moves(scheduler: Scheduler, contents: dict[int, Row]) -> None:
    moved = [(move.target, contents[move.source]) for move in scheduler.settle()]
    assert len({target for target, _ in moved}) == len(moved)
    contents.update(moved)


def test_rows_wait_their_turn() -> None:
    scheduler = Scheduler(2)
    rows = [row() for _ in range(4)]
    opened(scheduler, *rows)
    assert scheduler.running == rows[:2]
    scheduler.drop(rows[0])
    scheduler.settle()
    opened(scheduler)
    assert {id(each) for each in scheduler.running} == {id(rows[1]), id(rows[2])}
    assert scheduler.has_waiting


def test_long_prompts_are_admitted_in_several_passes() -> None:
    scheduler = Scheduler(100)
    for number in range(4):
        scheduler.enqueue(row(prompt=tuple([number] * 5000)))
    scheduler.enqueue(row(prompt=tuple([3] * 5000)))
    sizes = []
    while scheduler.has_waiting:
        new = scheduler.admit()
        sizes.append(len(new))
        scheduler.place(new)
    assert sizes == [1, 1, 1, 2]


def test_the_longest_shared_prefix_is_found() -> None:
    scheduler = Scheduler(10)
    first, second, other = row(), row(), row(prompt=(1, 2))
    opened(scheduler, first, second, other)
    for token_id in (5, 6, 7):
        first.accept(token_id, None)
    for token_id in (5, 8, 7):
        second.accept(token_id, None)
    first.num_cached = second.num_cached = 5

    def found(*token_ids: int) -> tuple[Row, int] | None:
        match = scheduler.match(token_ids)
        return match and (match.row, match.length)

    assert found(1, 2, 3, 5, 6, 7, 40) == (first, 5)  # the last token is not cached
    assert found(1, 2, 3, 5, 8, 40) == (second, 5)
    assert found(1, 2, 3, 5, 8) == (second, 4) or found(1, 2, 3, 5, 8) == (first, 4)
    assert found(1, 2, 40) == (other, 2)
    assert found(1, 40) is None
    assert found(2, 2, 3) is None
    scheduler.drop(other)
    assert found(1, 2, 40) is None


def test_a_row_says_when_a_chunk_ends() -> None:
    scheduler = Scheduler(10)
    each = row(checkpoints=(2,), max_tokens=4)
    opened(scheduler, each)
    assert each.accept(10, None) is None
    paused = each.accept(11, None)
    assert paused is not None
    assert paused.paused
    assert paused.chunk.token_ids == (10, 11)
    assert not each.runs
    scheduler.enqueue(each)
    scheduler.settle()
    scheduler.admit()
    assert each.runs
    assert each.accept(12, None) is None
    ended = each.accept(99, None)
    assert ended is not None
    assert (ended.chunk.token_ids, ended.chunk.num_generated_tokens) == ((12,), 2)
    assert ended.chunk.finish_reason == "stop"
