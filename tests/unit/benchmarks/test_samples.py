"""Drawing samples of the instructions, on the reference model, which understands none of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from benchmarks.sample_tasks import TASKS
from benchmarks.samples import QUESTIONS, main
from selfeval_backend.engine.transformers.token_signals import TokenSignals
from selfeval_backend.files import read_parquet
from selfeval_backend.instructions.task import score, score_share
from selfeval_backend.model import REFERENCE_FOLDER

pytestmark = pytest.mark.slow


def draw(run: Path, *more: str) -> None:
    small = ("--prompts", "3", "--samples", "2", "--max-tokens", "12")
    main(["draw", str(REFERENCE_FOLDER), str(run), *small, *more])


def collect(folder: Path, *more: str) -> None:
    main(["collect", str(folder / "run"), str(folder / "samples.parquet"), *more])


def test_rows_hold_what_signals_need(tmp_path: Path) -> None:
    draw(tmp_path / "run")
    collect(tmp_path)
    rows = list(read_parquet(tmp_path / "samples.parquet"))

    assert [row["sample"] for row in rows] == [0, 1, 2] * 3
    assert [row["part"] for row in rows[::3]] == ["seen", "unseen_wording", "unseen_kind"]
    for row in rows:
        num_generated = len(row["token_ids"]) + (row["finish_reason"] == "stop")
        signals = (row["logprobs"], row["entropies"], row["self_certainties"])
        assert [len(values) for values in signals] == [num_generated] * 3
        assert row["sum_logprob"] == pytest.approx(sum(row["logprobs"]), abs=0.02)
        assert all(row[f"logprob_good_{name}"] < 0 for name in QUESTIONS)
        assert row["reward"] == score(row["prompt"], row["response"], row["answer"])
        assert row["share_kept"] == score_share(row["prompt"], row["response"], row["answer"])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_drawn_of_and_judged(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    draw(tmp_path / "run", "--task", name, "--max-tokens", "100")
    collect(tmp_path, "--task", name)
    rows = list(read_parquet(tmp_path / "samples.parquet"))

    for place, asked in enumerate(islice(task.prompts(0), 3)):
        for row in rows[3 * place : 3 * place + 3]:
            assert (row["prompt"], row["answer"]) == (asked.prompt, asked.answer)
            assert row["reward"] == task.score(asked.prompt, row["response"], asked.answer)
            assert row["final_answer"] == task.final_answer(row["response"], asked.answer)
    if name == "puzzles":  # which the reference model solves
        assert any(row["reward"] and row["final_answer"] for row in rows)


def test_self_certainty_is_that_of_another_pass(tmp_path: Path) -> None:
    draw(tmp_path / "run")
    collect(tmp_path)
    rows = list(read_parquet(tmp_path / "samples.parquet"))
    measured = TokenSignals.load(str(REFERENCE_FOLDER)).measure(
        [tuple(row["prompt_token_ids"]) for row in rows],
        # It also measures what comes behind the tokens that it is given.
        [tuple(row["token_ids"][: len(row["logprobs"]) - 1]) for row in rows],
    )
    assert len(measured) == 9
    for row, signals in zip(rows, measured, strict=True):
        mean = sum(row["self_certainties"]) / len(row["self_certainties"])
        assert mean == pytest.approx(signals.self_certainty, rel=1e-2)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    draw(tmp_path)
    first, second, third = sorted(tmp_path.glob("prompt-*.jsonl"))
    before = {path: path.read_bytes() for path in (first, second, third)}
    stamps = {path: path.stat().st_mtime_ns for path in (first, third)}
    second.unlink()

    draw(tmp_path)

    assert {path: path.stat().st_mtime_ns for path in (first, third)} == stamps
    assert second.read_bytes()[:400] == before[second][:400]


def test_the_table_has_every_part_and_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "run")
    collect(tmp_path)
    capsys.readouterr()

    main(["table", str(tmp_path / "samples.parquet")])

    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| all | 3 | ")
    assert any(line.startswith("| unseen_kind/") for line in lines)
