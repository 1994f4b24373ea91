"""The study's command, on small Parquet files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.signals.__main__ import main
from benchmarks.signals.records import QUESTIONS, read
from selfeval_backend.errors import DatasetError


def row(prompt_id: str, sample: int, *, answer: str | None, reward: float) -> dict[str, object]:
    labels = {f"logprob_{side}_{name}": -0.7 for name in QUESTIONS for side in ("good", "bad")}
    return {
        "prompt_id": prompt_id,
        "part": "test",
        "kind": prompt_id[:3],
        "sample": sample,
        "response": f"so {answer}",
        "final_answer": answer,
        "finish_reason": "stop" if sample else "length",
        "logprobs": [-0.5, -0.25],
        "entropies": [0.5, 0.5],
        "self_certainties": [2.0, 3.0],
        **labels,
        "reward": reward,
    }


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two prompts of three samples; the two drawn ones agree, and are right once."""
    rows = [
        row("sum/0", 0, answer="4", reward=0.0),
        row("sum/0", 1, answer="5", reward=1.0),
        row("sum/0", 2, answer="5", reward=1.0),
        row("gcd/1", 0, answer="4", reward=1.0),
        row("gcd/1", 1, answer="5", reward=0.0),
        row("gcd/1", 2, answer="5", reward=0.0),
    ]
    return write(tmp_path / "small.parquet", rows)


def test_rows_become_prompts(drawn: Path) -> None:
    first, second = read(drawn)
    assert (first.part, first.kind, second.kind) == ("test", "sum", "gcd")
    assert first.rewards.tolist() == [0, 1, 1]
    greedy, other, _ = first.samples
    assert (greedy.ended, other.ended, other.final_answer) == (False, True, "5")
    assert other.logprobs.tolist() == [-0.5, -0.25]


def test_the_study_has_a_table_a_model_and_one_of_verdicts(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(drawn)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "## small"
    assert lines[2].startswith("| prompts | samples drawn of each | one sample |")
    assert lines[4].startswith("| 2 | 2 | 0.500 ±")
    (agreement, said) = (line for line in lines if " agreement;" in line)
    assert "| every | nan ± nan | 0.500 ±" in agreement
    assert "| +0.000 [-1.000, +1.000] |" in agreement
    assert said.endswith("| not refuted |")  # by two prompts


def test_neighbours_that_say_the_same_share_a_row(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(drawn)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ", 1) for line in lines if " | " in line]
    assert any("; " in names for names, _ in rows)
    assert all(above != below for (_, above), (_, below) in pairwise(rows))


def test_the_study_by_kind(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(drawn), "--by", "kind"])
    out = capsys.readouterr().out
    _, gcd, total = out.split("\n### ")
    assert gcd.startswith("small, gcd\n\n| prompts |")
    assert gcd.splitlines()[4].startswith("| 1 | 2 | ")
    assert total.startswith("small, sum\n\n| prompts |")
    assert total.splitlines()[4].startswith("| 1 | 2 | ")
    agreement = next(line for line in total.splitlines() if " agreement;" in line)
    assert "| every | nan ± nan | 1.000 ± 0.000 | +1.000 [+1.000, +1.000] |" in agreement


def test_two_models_of_one_name_are_refused(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(drawn), str(drawn)])
    assert "two of one name" in capsys.readouterr().err


def test_a_prompt_without_its_greedy_sample_is_an_error(tmp_path: Path) -> None:
    rows = [row("sum/0", sample, answer="4", reward=0.0) for sample in (1, 2)]
    with pytest.raises(DatasetError, match="sum/0 has to have sample 0"):
        read(write(tmp_path / "bad.parquet", rows))
