"""Prompts from files, the hub's library and functions: read, told apart, split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfeval_backend.errors import AICError, ConfigurationError, DatasetError
from selfeval_backend.training.prompts import PromptStage, read_prompts, stored_prompts
from selfeval_backend.training.recipe import FileSource, PromptSettings
from tests.unit.training.conftest import MakeRecipe, make_pipeline

ROWS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(400)]


def some_prompts(n: int) -> Iterator[dict[str, str]]:
    """Yield prompts: what a user's function does."""
    return ({"prompt": str(i), "answer": "a", "split": "train"} for i in range(n))


def write(folder: Path, ending: str) -> Path:
    path = folder / f"prompts{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path, ending: str) -> None:
    source = FileSource(kind="file", path=write(tmp_path, ending), answer_column="answer")
    found = list(read_prompts(PromptSettings(source=source)))
    assert [p.text for p in found] == [row["prompt"] for row in ROWS]
    assert [p.answer for p in found] == [row["answer"] for row in ROWS]


def test_a_local_folder_through_the_datasets_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    write(tmp_path, ".jsonl")
    settings = PromptSettings.model_validate(
        {"source": {"kind": "datasets", "name": str(tmp_path)}, "limit": 3}
    )
    assert [p.text for p in read_prompts(settings)] == [row["prompt"] for row in ROWS[:3]]


def test_a_function_of_the_user_yields_prompts() -> None:
    settings = PromptSettings.model_validate(
        {
            "source": {
                "kind": "function",
                "function": f"{__name__}:some_prompts",
                "arguments": {"n": 2},
            }
        }
    )
    assert [(p.text, p.split) for p in read_prompts(settings)] == [("0", "train"), ("1", "train")]


def test_shares_of_the_splits_and_no_prompt_in_two(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(ROWS, prompts={"validation": 0.1, "calibration": 0.2, "test": 0.3})
    folder = make_pipeline(recipe, PromptStage())[0].run("prompts")
    counts = {
        split: len(list(stored_prompts(folder, [split])))
        for split in ("train", "validation", "calibration", "test")
    }
    assert sum(counts.values()) == len(ROWS)
    for split, share in {"train": 0.4, "validation": 0.1, "calibration": 0.2, "test": 0.3}.items():
        assert counts[split] / len(ROWS) == pytest.approx(share, abs=0.08)


def test_the_split_is_the_prompts_alone(make_recipe: MakeRecipe) -> None:
    def splits(rows: list[dict[str, str]]) -> dict[str, str]:
        return {p.text: p.split for p in read_prompts(make_recipe(rows).prompts)}

    assert splits(ROWS) == splits(ROWS[::-1])
    assert splits(ROWS[:7]).items() <= splits(ROWS).items()


def test_duplicates_are_dropped_and_counted_or_refused(make_recipe: MakeRecipe) -> None:
    rows = [*ROWS, ROWS[0], ROWS[0]]
    pipeline, lines = make_pipeline(make_recipe(rows), PromptStage())
    pipeline.run("prompts")
    manifest = pipeline.manifest("prompts")
    assert manifest is not None
    assert manifest.figures["duplicates"] == 2
    assert "prompts: 2 duplicates dropped" in lines
    strict = make_recipe(rows, prompts={"duplicates": "refuse"})
    with pytest.raises(DatasetError, match="comes twice"):
        make_pipeline(strict, PromptStage())[0].run("prompts")


def test_a_conversation_keeps_its_turns(make_recipe: MakeRecipe) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    recipe = make_recipe([{"prompt": turns}, {"prompt": "Hi"}])
    found = list(read_prompts(recipe.prompts))
    assert [m.role for m in found[0].messages] == ["system", "user"]
    assert found[0].prompt_id != found[1].prompt_id


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "x"}', "no column 'prompt'"),
        ("[1]", "line 1: expected a JSON object"),
        ("{", "line 1: no JSON"),
        ('{"prompt": ""}', "no prompt"),
        ('{"prompt": 3}', "no prompt"),
        ('{"prompt": [{"role": "king", "content": "x"}]}', "no prompt"),
        ("\udcff", "line 1: byte 0xff at place 1 is no UTF-8"),
        ("", "no prompt is left"),
    ],
)
def test_bad_rows_are_named(make_recipe: MakeRecipe, line: str, what: str) -> None:
    recipe = make_recipe()
    assert isinstance(recipe.prompts.source, FileSource)
    recipe.prompts.source.path.write_bytes(line.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=what):
        make_pipeline(recipe, PromptStage())[0].run("prompts")


def test_files_that_cannot_be(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    cases: list[tuple[str, type[AICError], str]] = [
        ("none.jsonl", DatasetError, "there is no file"),
        ("prompts.txt", ConfigurationError, "ends in"),
        ("broken.parquet", DatasetError, "cannot be read"),
    ]
    for name, *_ in cases[1:]:
        (tmp_path / name).write_text("no such thing")
    for name, error, what in cases:
        recipe = make_recipe(source={"path": str(tmp_path / name)})
        with pytest.raises(error, match=what):
            make_pipeline(recipe, PromptStage())[0].run("prompts")
