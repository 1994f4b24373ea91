"""One importer for a user's functions: the current directory, sources that change, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.importing import import_function, source_digest

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the current directory; what is imported from there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def to(name: str, source: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

    return to


def test_a_module_that_changed_is_imported_anew(write: Write) -> None:
    write("mine_changed.py", "def f(): return 1")
    assert import_function("field", "mine_changed:f")() == 1
    write("mine_changed.py", "def f(): return 2")  # of the same length, within the same second
    assert import_function("field", "mine_changed:f")() == 2


def test_a_helper_that_changed_counts(write: Write) -> None:
    write("mine_helped.py", "def f():\n    import aid_helped\n    return aid_helped.N")
    write("aid_helped.py", "N = 1")
    before = source_digest("mine_helped:f")
    assert import_function("field", "mine_helped:f")() == 1
    write("aid_helped.py", "N = 2")
    assert source_digest("mine_helped:f") != before
    assert import_function("field", "mine_helped:f")() == 2


def test_modules_of_one_name_in_two_folders(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("one", "two")):
        write(f"{folder}/mine_twice.py", f"def f(): return {number}")
        monkeypatch.chdir(tmp_path / folder)
        assert import_function("field", "mine_twice:f")() == number


def test_a_packages_module_and_its_digest(write: Write) -> None:
    write("mine_package/__init__.py", "")
    write("mine_package/inner.py", "from . import other\ndef f(): return other.N")
    write("mine_package/other.py", "N = 1")
    before = source_digest("mine_package.inner:f")
    assert import_function("field", "mine_package.inner:f")() == 1
    write("mine_package/other.py", "N = 2")
    assert source_digest("mine_package.inner:f") != before


@pytest.mark.parametrize(("name", "whose"), [("random", "standard library"), ("pytest", "pytest")])
def test_a_file_that_another_module_hides_is_named(write: Write, name: str, whose: str) -> None:
    write(f"{name}.py", "def f(): return 1")
    with pytest.raises(ConfigurationError, match=rf"{name}\.py is hidden .*{whose}.*: rename it"):
        import_function("field", f"{name}:f")


def test_a_package_of_the_current_directory_is_found_again(write: Write) -> None:
    write("mine_again/__init__.py", "def f(): return 1")
    write("json/readme.txt", "no module")
    for _ in range(2):
        assert import_function("field", "mine_again:f")() == 1
    assert import_function("field", "json:loads")("1") == 1


def test_a_package_that_was_imported_otherwise_hides_nothing(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("mine_other/__init__.py", "def f(): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("mine_other")
    assert import_function("field", "mine_other:f")() == 1


def test_files_of_the_current_directory_hide_no_library_later_on(write: Write) -> None:
    write("mine_shadow.py", "def f(): return 1")
    write("this.py", "raise AssertionError('imported by mistake')")
    import_function("field", "mine_shadow:f")
    sys.modules.pop("this", None)
    __import__("this")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", r"SyntaxError in mine_bad\.py, line 1: .*\.$"),
        ("raise SystemExit('no')", r"Importing mine_bad raised SystemExit: no\.$"),
        ("raise ValueError('a\\nb')", r"Importing mine_bad raised ValueError: a b\.$"),
        ("f = None", r"expected a function, not NoneType\.$"),
    ],
)
def test_what_cannot_be_imported_is_one_line(write: Write, source: str, message: str) -> None:
    write("mine_bad.py", source)
    sys.modules.pop("mine_bad", None)
    with pytest.raises(ConfigurationError, match=message):
        import_function("field", "mine_bad:f")
