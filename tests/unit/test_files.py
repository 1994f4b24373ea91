"""One reader for every file, and one way to write one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.figures.runs import load_beams
from selfeval_backend.errors import AICError, ConfigurationError, DatasetError
from selfeval_backend.evaluation.tasks import AlpacaEvalTask, FileTask, Gsm8kTask
from selfeval_backend.files import (
    UNFINISHED,
    check_can_write,
    locked,
    read_csv,
    read_json,
    read_json_lines,
    read_parquet,
    remove_folder,
    remove_unfinished,
    replacing,
    replacing_folder,
    write_atomically,
    write_json,
)
from selfeval_backend.hashing import Hasher
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.samples.store import read_listing
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.training.pipeline import Manifest
from selfeval_backend.training.prompts import read_prompts
from selfeval_backend.training.recipe import PromptSettings, load_recipe


class Judge:
    def preference(self, instruction: str, response: str, reference: str) -> float:
        return 0.5


def _prompts(path: Path) -> object:
    source = {"kind": "file", "path": path, "prompt_column": "prompt", "answer_column": None}
    return list(read_prompts(PromptSettings.model_validate({"source": source})))


JSON_LINES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "task": ("task.jsonl", lambda path: FileTask(path).items),
    "gsm8k": ("gsm8k.jsonl", lambda path: Gsm8kTask(path).items),
    "training": ("prompts.jsonl", _prompts),
}
JSON_FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "alpaca": ("alpaca.json", lambda path: AlpacaEvalTask(path, judge=Judge()).items),
    "selfeval.json": ("selfeval.json", lambda path: SelfEvalConfig.load(path.parent)),
    "beams": ("beam.json", load_beams),
    "manifest": ("stage.json", lambda path: Manifest.load(path.parent)),
    "recording": ("recording.json", lambda path: read_listing(path.parent)),
}
OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "csv": ("prompts.csv", _prompts),
    "recipe": ("recipe.yaml", load_recipe),
}
ALL = JSON_LINES | JSON_FILES | OTHERS

NO_TEXT = {
    "UTF-16": ('{"prompt": "é"}'.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": ('{"prompt": "é"}'.encode("utf-16-le"), "NUL byte"),
    "Latin-1": ('{"prompt": "é"}'.encode("latin-1"), "line 1: byte 0xe9 at place 13 is no UTF-8"),
    "raw surrogate": (b'\n{"prompt": "\xed\xa0\x80"}', "line 2: byte 0xed at place 13"),
    "NUL": (b'{"prompt": "a\0b"}', "NUL byte"),
}
NO_JSON = {
    "surrogate": (r'{"prompt": "\ud800"}', "half of a surrogate pair"),
    "surrogate in a key": (r'{"\uDFFF": 1}', "half of a surrogate pair"),
    "twice": ('{"prompt": "a", "prompt": "b"}', "'prompt' comes twice"),
    "long number": ('{"prompt": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
    "deep": ("[" * 100_000, "too deeply"),
    "cut off": ('{"prompt": "a"', "no JSON"),
}
NO_NUMBER = {
    "NaN": ('{"prompt": NaN}', "NaN is no number of JSON"),
    "infinity": ('{"prompt": -Infinity}', "-Infinity is no number of JSON"),
    "too large": ('{"prompt": 1e999}', "1e999 is too large"),
}


def _refused(path: Path, body: bytes, read: Callable[[Path], object]) -> str:
    path.write_bytes(body)
    with pytest.raises(AICError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("kind", NO_TEXT)
def test_what_is_no_utf8_is_refused_by_file_and_line(
    tmp_path: Path, reader: str, kind: str
) -> None:
    name, read = ALL[reader]
    body, message = NO_TEXT[kind]

    assert message in _refused(tmp_path / name, body, read)


@pytest.mark.parametrize("reader", JSON_LINES | JSON_FILES)
@pytest.mark.parametrize("kind", NO_JSON)
def test_what_cannot_be_meant_as_json_is_refused(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = ALL[reader]
    body, message = NO_JSON[kind]

    said = _refused(tmp_path / name, body.encode(), read)
    assert message in said
    assert ", line 1: " in said or reader in JSON_FILES


@pytest.mark.parametrize("reader", ["task", "gsm8k", "training", "alpaca", "selfeval.json"])
@pytest.mark.parametrize("kind", NO_NUMBER)
def test_numbers_that_json_does_not_have_are_refused_in_a_users_files(
    tmp_path: Path, reader: str, kind: str
) -> None:
    name, read = ALL[reader]
    body, message = NO_NUMBER[kind]

    assert message in _refused(tmp_path / name, body.encode(), read)


@pytest.mark.parametrize("reader", ALL)
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, reader: str) -> None:
    name, read = ALL[reader]
    (tmp_path / name).mkdir()

    if reader != "manifest":  # no manifest, as before
        with pytest.raises(AICError, match="directory"):
            read(tmp_path / name)


SEPARATORS = "a\u2028b\u2029c\u0085d"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
def test_lines_end_at_line_feeds_alone(tmp_path: Path, end: str, mark: str) -> None:
    rows = [{"prompt": SEPARATORS}] * 2
    path = tmp_path / "rows.jsonl"
    body = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes((mark + body + end + end).encode())

    assert list(read_json_lines(path)) == [(1, rows[0]), (2, rows[1])]
    assert len(_prompts(path)) == 2  # type: ignore[arg-type]  # a list


def test_a_byte_order_mark_is_no_part_of_a_csv_head(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes('prompt,answer\r\n"a\u2028b\r\nc, ""d""",1\r\n'.encode("utf-8-sig"))

    assert list(read_csv(path)) == [{"prompt": 'a\u2028b\r\nc, "d"', "answer": "1"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,answer\na, b,1\n", "line 2: 3 fields under 2 columns"),
        ("prompt,answer\na\n", "line 2: 1 fields under 2 columns"),
        ("prompt,prompt\na,b\n", "the column 'prompt' comes twice"),
        ('prompt,answer\n"a,1\nb,2\n', "no CSV"),
    ],
)
def test_a_row_of_csv_that_is_cut_otherwise_than_meant_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        list(read_csv(path))


def test_text_in_parquet_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"question": text}), path)

    for read in (lambda path: list(read_parquet(path)), Gsm8kTask):
        with pytest.raises(DatasetError, match=r"rows\.parquet cannot be read"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "'name' comes twice"),
        ("prompts:\n  limit: 1\n  limit: 2\n", "'limit' comes twice"),
        ("seed: " + "9" * 5000, "4300 digits"),
        ("[" * 5000, "too deeply"),
        ("a: [", "YAML"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=message):
        load_recipe(path)
    if ":" in text and "\n" not in text.strip():
        with pytest.raises(ConfigurationError, match=message):
            load_recipe("gsm8k", ["seed=" + text.partition(": ")[2]])


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    from selfeval_backend.training import recipe

    shipped = Path(recipe.__file__).parent / "recipes" / "gsm8k.yaml"
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + shipped.read_bytes().replace(b"\n", b"\r\n"))

    assert load_recipe(path) == load_recipe("gsm8k")


def test_a_models_own_facts_are_read_with_a_byte_order_mark(tmp_path: Path) -> None:
    body = (REFERENCE_FOLDER / "selfeval.json").read_bytes()
    (tmp_path / "selfeval.json").write_bytes(b"\xef\xbb\xbf" + body)

    assert SelfEvalConfig.load(tmp_path) == SelfEvalConfig.load(REFERENCE_FOLDER)


def test_what_is_no_number_is_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [float("nan"), (1.0, float("inf"))]})
    SelfEvalConfig(provenance={"reached": float("nan")}).save(tmp_path)

    assert read_json(tmp_path / "a.json") == {"a": [None, [1.0, None]]}
    config = SelfEvalConfig.load(tmp_path)
    assert config is not None
    assert config.provenance == {"reached": None}


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("shared")
    (tmp_path / "link").symlink_to("blob")
    write_atomically(tmp_path / "link", "mine")

    assert (tmp_path / "blob").read_text() == "shared"
    assert (tmp_path / "link").read_text() == "mine"


def test_permissions_stay_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)
    write_atomically(path, "after")

    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)


def test_what_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(DatasetError, match="half of a surrogate pair"):
        write_atomically(path, "\ud800")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [str(place) * 10_000 for place in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from selfeval_backend.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), "x" * 5000)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_takes_no_more_leaves_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True
    )

    assert ran.stdout == (
        f"DatasetError {path} cannot be written: File too large. What was finished before is "
        "kept: make room, and start again.\n"
    )
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_where_nothing_can_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    check_can_write(tmp_path / "new" / "folder" / "x.json")
    for path in (tmp_path / "file" / "x.json", tmp_path, Path("/dev/full/x.json")):
        with pytest.raises(DatasetError, match="cannot be written"):
            check_can_write(path)


HOLDS = """
import sys, time
from pathlib import Path
from selfeval_backend.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_who_works_there_until_that_one_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigurationError, match=f"process {other.pid} on "):
            take(tmp_path)
        other.kill()

    take(tmp_path)


def take(folder: Path) -> None:
    with locked(folder):
        pass


def test_within_one_process_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigurationError, match=f"process {os.getpid()} on "):
        take(tmp_path)
    take(tmp_path)


def test_a_file_system_without_locks_is_named_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    import filelock

    def cannot(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", cannot)
    with pytest.warns(UserWarning, match="its file system has no locks"), locked(tmp_path):
        pass


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b'{"a": "\\ud800"}'])
def test_a_memory_of_hashes_that_cannot_be_read_is_made_anew(tmp_path: Path, body: bytes) -> None:
    memory, file = tmp_path / "hashes.json", tmp_path / "file"
    file.write_text("text")
    expected = Hasher(tmp_path / "none.json").file(file)
    memory.write_bytes(body)
    hasher = Hasher(memory)
    assert hasher.file(file) == expected
    hasher.save()
    assert Hasher(memory).file(file) == expected


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "model"
    with replacing_folder(place) as fresh:
        (fresh / "a").write_text("first")
        assert not place.exists()
    with suppress(RuntimeError), replacing_folder(place) as fresh:
        (fresh / "a").write_text("second")
        raise RuntimeError
    assert (place / "a").read_text() == "first"
    with replacing_folder(place) as fresh:
        (fresh / "b").write_text("third")
    assert [path.name for path in place.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DatasetError, match="cannot be written: Not a directory"),
        replacing_folder(tmp_path / "file" / "model"),
    ):
        pass


def test_removing_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_folder(tmp_path / "gone")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("")
    remove_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_unfinished_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / f"model{UNFINISHED}").mkdir()
    (tmp_path / f"file{UNFINISHED}").write_text("")
    (tmp_path / "kept").write_text("")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
