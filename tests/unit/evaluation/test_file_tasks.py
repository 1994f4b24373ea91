"""Prompts from files, and how their answers are judged."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, DatasetError, MissingDependencyError
from selfeval_backend.evaluation.tasks import FileTask, Gsm8kTask, ShiftedTask, named_task
from selfeval_backend.evaluation.tasks.shifted import SHIFTED_KINDS
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record
from selfeval_backend.samples.store import load_recording
from tests.conftest import ModelFactory


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def capitals(tmp_path: Path) -> Path:
    return written(
        tmp_path / "capitals.jsonl",
        {"prompt": "Capital of France?", "answer": "Paris", "id": "fr"},
        {"prompt": "Capital of Peru?", "answer": "Lima"},
    )


def test_exact(capitals: Path) -> None:
    task = FileTask(capitals)
    france, peru = task.items

    assert task.name == "capitals"
    assert (france.prompt_id, peru.prompt_id) == ("fr", "line-2")
    assert (france.reward(" paris\n"), france.reward("Paris, of course")) == (1.0, 0.0)
    assert france.answer(" Paris ") == "paris"
    assert france.answer("  ") is None
    assert len(FileTask(capitals, n=1).items) == 1


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_other_files_give_the_same_prompts(capitals: Path, ending: str) -> None:
    rows = [json.loads(line) for line in capitals.read_text().splitlines()]
    path = capitals.with_suffix(ending)
    if ending == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "answer", "id"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    task, lines_task = FileTask(path), FileTask(capitals)
    assert [item.prompt for item in task.items] == [item.prompt for item in lines_task.items]
    assert [item.reward("Lima") for item in task.items] == [0.0, 1.0]


async def test_messages_are_a_prompt(
    tmp_path: Path, make_model: ModelFactory, chat: ScriptedChat
) -> None:
    model = make_model(lambda _: chat.response("Me", 0.5))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    path = written(tmp_path / "m.jsonl", {"prompt": turns, "answer": "Me"})
    task = FileTask(path)
    await record(model, task, RecordingPlan(num_samples=1), tmp_path / "kept")
    (prompt,) = load_recording(tmp_path / "kept").prompts
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Who?"),
    ]
    assert prompt.prompt_ids == model.chat.prompt_ids(prompt.messages)
    path = written(tmp_path / "bad.jsonl", {"prompt": [{"role": "king"}], "answer": "Me"})
    with pytest.raises(DatasetError, match=r"bad\.jsonl, line 1 is no prompt"):
        FileTask(path)


def test_regex(tmp_path: Path) -> None:
    path = written(tmp_path / "sums.jsonl", {"prompt": "1 + 999?", "answer": "1000"})
    (item,) = FileTask(path, scorer=r"regex:answer is ([\d,.]+)").items

    assert item.reward("The answer is 5. No, the answer is 1,000.0.") == 1.0
    assert item.reward("The answer is 1001") == 0.0
    assert item.reward("a thousand") == 0.0
    assert item.answer("answer is 1,000") == "1000"


@pytest.mark.parametrize(
    ("answer", "response", "right"),
    [
        ("35", "3,5", False),
        ("12345678901234567890", "12345678901234567891", False),
        ("50", "50%", True),
        ("12", "12 apples", True),
        ("12", "**12**", True),
        ("so 1,234\n#### 1,234", "1234", True),
        ("9" * 5000, "9" * 5000, True),
        ("9" * 5000, "9" * 4999 + "8", False),
    ],
)
def test_numbers_are_compared_as_numbers(
    tmp_path: Path, answer: str, response: str, right: bool
) -> None:
    path = written(tmp_path / "n.jsonl", {"prompt": "How many?", "answer": answer})
    task = FileTask(path, scorer="regex:(?s).+")
    assert task.items[0].reward(response) == float(right)
    assert task.items[0].judge(response).reward == float(right)
    task.close()


def test_a_number_of_5000_digits_is_an_answer_like_others(tmp_path: Path) -> None:
    long = "9" * 5000
    (item,) = Gsm8kTask(
        written(tmp_path / "g.jsonl", {"question": "Q", "answer": f"#### {long}"})
    ).items
    assert (item.reward(f"#### {long}"), item.reward(f"#### {long[1:]}8")) == (1.0, 0.0)
    (puzzle,) = named_task("reference", n=1, seed=0).items
    assert puzzle.judge(f"#### {long}").reward == 0.0
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"prompt": "Q", "answer": ' + long + "}\n")
    with pytest.raises(DatasetError, match="line 1: a number of 5,000 digits"):
        FileTask(raw)


@pytest.mark.slow
def test_math(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    path = written(tmp_path / "m.jsonl", {"prompt": "One half?", "answer": "$\\frac{1}{2}$"})
    (item,) = FileTask(path, scorer="math").items

    assert item.reward("It is $0.5$") == 1.0
    assert item.reward("It is $0.25$") == 0.0
    assert item.answer("It is $\\frac{2}{4}$") is not None
    assert item.answer("no idea") is None


def test_a_scorer_of_ones_own(
    capitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_scorer.py").write_text(
        "def length(response, row):\n    return len(response) / len(row['answer'])\n"
    )
    monkeypatch.chdir(tmp_path)

    france, _ = FileTask(capitals, scorer="own_scorer:length").items

    assert france.reward("Paris Paris") == 11 / 5
    assert france.answer("Paris") is None
    for spec in ("own_scorer:width", "no_such_module:length"):
        with pytest.raises(ConfigurationError, match=r"^scorer: got .*(width|no_such_module)"):
            FileTask(capitals, scorer=spec)


@pytest.mark.parametrize("scorer", ["regex:", "regex:(", "fuzzy", "a b:c"])
def test_an_unknown_scorer_is_refused(capitals: Path, scorer: str) -> None:
    with pytest.raises(ConfigurationError, match="scorer"):
        FileTask(capitals, scorer=scorer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "answer": "b"}\n{"prompt": ""}', "line 2: 'prompt' is missing"),
        ('{"prompt": "a"}', "line 1: 'answer' is missing"),
        ("\n[1]", "line 2: expected a JSON object"),
        ("{", "line 1: no JSON"),
        ("", "no rows"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        FileTask(path)


ROW = {"question": "How many?", "answer": "48/2 = 24, 48+24 = 72\n#### 1,072"}


def test_gsm8k(tmp_path: Path) -> None:
    lines = Gsm8kTask(written(tmp_path / "test.jsonl", ROW, ROW), n=1)
    parquet = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist([ROW]), parquet)

    for task in (lines, Gsm8kTask(parquet)):
        (item,) = task.items
        assert item.prompt.startswith("How many?\n")
        assert item.prompt_id == "gsm8k-1"
        assert item.reward("so\n#### 1072") == 1.0
        assert item.reward("#### 72, no: #### $1,072.00") == 1.0
        assert item.reward("1072 or 3") == 0.0


def test_a_bad_gsm8k_row_is_named(tmp_path: Path) -> None:
    for row, message in (
        ({"question": "a", "answer": "72"}, "line 1: the answer has no '#### '"),
        ({"question": "a"}, "line 1: 'question' and 'answer' must be text"),
    ):
        with pytest.raises(DatasetError, match=message):
            Gsm8kTask(written(tmp_path / "bad.jsonl", row))
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DatasetError, match="cannot be read"):
        Gsm8kTask(tmp_path / "bad.parquet")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The `datasets` library, with a cache of this test's own."""
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


OTHER = {"question": "Not this one?", "answer": "#### 1"}


def test_gsm8k_as_save_to_disk_wrote_it(tmp_path: Path, cached: Any) -> None:
    test, train = (cached.Dataset.from_list([row]) for row in (ROW, OTHER))
    test.save_to_disk(tmp_path / "one")
    cached.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    cached.DatasetDict({"train": train}).save_to_disk(tmp_path / "train only")

    for name in ("one", "both"):
        (item,) = Gsm8kTask(tmp_path / name).items
        assert item.prompt.startswith("How many?\n")
    with pytest.raises(DatasetError, match="train only has no split 'test', but train"):
        Gsm8kTask(tmp_path / "train only")


@pytest.mark.parametrize("described", [True, False])
def test_gsm8k_as_a_copy_of_the_hubs_folder(tmp_path: Path, cached: Any, described: bool) -> None:
    for config in ("main", "socratic") if described else ("main",):
        folder = tmp_path / "gsm8k" / config
        folder.mkdir(parents=True)
        for split, row in (("train", OTHER), ("test", ROW if config == "main" else OTHER)):
            table = pa.Table.from_pylist([row])
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    if described:
        configs = "".join(
            f"- config_name: {c}\n  data_files:\n"
            f"  - split: train\n    path: {c}/train-*\n  - split: test\n    path: {c}/test-*\n"
            for c in ("main", "socratic")
        )
        (tmp_path / "gsm8k" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")

    (item,) = Gsm8kTask(tmp_path / "gsm8k").items

    assert item.prompt.startswith("How many?\n")
    assert item.reward("#### 1072") == 1.0


def test_gsm8k_that_cannot_be_downloaded_says_what_to_do(
    cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to huggingface.co\nmore")

    monkeypatch.setattr(cached, "load_dataset", unreachable)
    with pytest.raises(
        DatasetError,
        match=r"^openai/gsm8k cannot be downloaded: no route to huggingface.co\. "
        r"Give a local copy, a folder or its test file: --file PATH\.$",
    ):
        named_task("gsm8k", n=5, seed=0)

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"adaptive-inference-compute\[datasets\]"):
        named_task("gsm8k", n=5, seed=0)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, cached: Any) -> None:
    del cached
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty cannot be read: .*--file PATH"):
        Gsm8kTask(tmp_path / "empty")


def test_shifted_problems_are_solvable_and_never_come_twice() -> None:
    task = ShiftedTask(30, seed=1)

    again = ShiftedTask(30, seed=1)
    assert [i.prompt for i in task.items] == [i.prompt for i in again.items]
    assert len({item.prompt for item in task.items}) == 30
    for kind in SHIFTED_KINDS:
        assert sum(item.prompt_id.startswith(kind) for item in task.items) == 10
    longer = next(item for item in task.items if item.prompt_id.startswith("longer"))
    assert longer.reward("#### 1") == 0.0
    assert longer.prompt.count(", then ") == 2


def test_tasks_by_name(capitals: Path, tmp_path: Path) -> None:
    assert len(named_task("reference", n=3, seed=0).items) == 3
    assert len(named_task("shifted", n=None, seed=0).items) == 200
    assert named_task(str(capitals), n=None, seed=0).name == "capitals"
    gsm8k = written(tmp_path / "test.jsonl", ROW)
    assert named_task("gsm8k", n=None, seed=0, file=gsm8k).name == "gsm8k"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "no such file"}, "task"),
        ({"name": "reference", "n": 0}, "n"),
        ({"name": "reference", "scorer": "exact"}, "scorer"),
        ({"name": "shifted", "file": Path("x")}, "file"),
        ({"name": "alpaca_eval"}, "file"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{field}:"):
        named_task(**{"n": None, "seed": 0} | arguments)  # type: ignore[arg-type]  # on purpose
