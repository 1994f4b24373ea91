"""A release tries every extra that the project offers, and refuses a wheel that is not whole."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from tests.meta.source import ROOT

FOR_THE_PROJECT_ITSELF = {"dev", "docs", "test"}
WHOLE = ("selfeval_backend/py.typed", "model/model.safetensors", "model/selfeval.json", "x/LICENSE")
SOURCES = ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "mkdocs.yml")


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "packaging" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def wheel_of(folder: Path, *names: str) -> Path:
    path = folder / "made.whl"
    with ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "")
    return path


def sdist_of(folder: Path, *names: str) -> Path:
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for name in names:
            made.addfile(tarfile.TarInfo(f"made-0.1.0/{name}"), io.BytesIO())
    return path


def test_every_extra_of_the_project_is_tried(release: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = set(project["optional-dependencies"]) - FOR_THE_PROJECT_ITSELF
    assert set(release.EXTRAS) == offered | {""}


def test_what_is_whole_passes(release: ModuleType, tmp_path: Path) -> None:
    release.check_contents(wheel_of(tmp_path, *WHOLE), sdist_of(tmp_path, *SOURCES))


@pytest.mark.parametrize("lacking", WHOLE)
def test_a_wheel_that_lacks_a_part_is_refused(
    release: ModuleType, tmp_path: Path, lacking: str
) -> None:
    wheel = wheel_of(tmp_path, *(name for name in WHOLE if name != lacking))
    with pytest.raises(SystemExit, match="is not in the wheel"):
        release.check_contents(wheel, sdist_of(tmp_path, *SOURCES))


@pytest.mark.parametrize("stray", ["tests/conftest.py", "docs/index.md", "benchmarks/common.py"])
def test_a_wheel_with_more_than_the_packages_is_refused(
    release: ModuleType, tmp_path: Path, stray: str
) -> None:
    with pytest.raises(SystemExit, match="is in the wheel"):
        release.check_contents(wheel_of(tmp_path, *WHOLE, stray), sdist_of(tmp_path, *SOURCES))


@pytest.mark.parametrize("lacking", SOURCES)
def test_an_sdist_that_lacks_a_part_is_refused(
    release: ModuleType, tmp_path: Path, lacking: str
) -> None:
    sdist = sdist_of(tmp_path, *(name for name in SOURCES if name != lacking))
    with pytest.raises(SystemExit, match="is not in the sdist"):
        release.check_contents(wheel_of(tmp_path, *WHOLE), sdist)


def test_an_extra_that_does_not_exist_is_refused(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["release.py", "--only", "langchan"])
    with pytest.raises(SystemExit):
        release.main()
    assert "'langchan' is none of" in capsys.readouterr().err
