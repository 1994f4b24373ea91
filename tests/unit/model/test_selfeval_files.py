"""Which selfeval.json is a model's, and where a new one goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfeval_backend.doctor import check_model_files
from selfeval_backend.errors import DatasetError, ModelFilesError
from selfeval_backend.model import REFERENCE_FOLDER, file_to_write, find_selfeval, user_folder
from selfeval_backend.selfeval import SelfEvalConfig

COMMIT, OTHER_COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659", "f" * 40


@pytest.fixture(autouse=True)
def _own_user_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def snapshot(tmp_path: Path, commit: str = COMMIT, config: SelfEvalConfig | None = None) -> Path:
    """Lay out a model as a hub's cache does: links to blobs, which are named by their content."""
    root = tmp_path / "hub" / "models--org--name"
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    (root / "blobs").mkdir(exist_ok=True)
    files = {"config.json": "{}"}
    if config is not None:
        files["selfeval.json"] = config.model_dump_json()
    for name, text in files.items():
        blob = root / "blobs" / f"{name}-blob"
        blob.write_text(text)
        (folder / name).symlink_to(Path("../../blobs") / blob.name)
    return folder


def checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def tuned(threshold: float) -> SelfEvalConfig:
    return SelfEvalConfig(policy={"threshold": threshold})


def test_a_folder_of_ones_own_keeps_it_beside_its_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mine")

    assert file_to_write(folder) == folder / "selfeval.json"
    assert find_selfeval(folder).config is None
    tuned(0.5).save(folder)
    found = find_selfeval(folder)
    assert (found.config, found.path, found.of_user) == (
        tuned(0.5),
        folder / "selfeval.json",
        False,
    )


def test_a_hubs_cache_is_left_as_it_is_and_the_users_file_goes_first(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, config=tuned(0.1))
    path = file_to_write(folder)
    tuned(0.5).write(path)

    assert path == user_folder() / "org--name" / COMMIT[:12] / "selfeval.json"
    found = find_selfeval(folder)
    assert (found.config, found.path, found.of_user) == (tuned(0.5), path, True)
    assert SelfEvalConfig.load(folder) == tuned(0.1)


def test_a_file_for_another_revision_is_passed_over_and_named(tmp_path: Path) -> None:
    path = file_to_write(snapshot(tmp_path, OTHER_COMMIT))
    tuned(0.5).write(path)
    found = find_selfeval(snapshot(tmp_path, config=tuned(0.1)))

    assert (found.config, found.passed_over) == (tuned(0.1), (path,))


@pytest.mark.parametrize(
    ("file", "body"),
    [("model.safetensors", b"WEIGHTS"), ("config.json", b'{"a": 1}'), ("selfeval.json", b"{}")],
)
def test_a_file_for_other_files_in_the_same_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, body: bytes
) -> None:
    folder = checkpoint(tmp_path / "theirs")
    with monkeypatch.context() as patch:
        patch.setattr("selfeval_backend.model.selfeval_files.check_folder", refuse_once(folder))
        path = file_to_write(folder)
    tuned(0.5).write(path)
    assert find_selfeval(folder).of_user
    (folder / file).write_bytes(body)

    assert find_selfeval(folder).passed_over == (path,)


def refuse_once(refused: Path):  # type: ignore[no-untyped-def]  # a stand-in
    """Stand in for a read-only folder: no permission binds the user that tests may run as."""

    def check(folder: Path) -> None:
        if folder == refused:
            raise DatasetError(f"{folder} cannot be written: Read-only file system.")
        folder.mkdir(parents=True, exist_ok=True)

    return check


def test_large_weights_are_told_apart_by_samples_of_them(tmp_path: Path) -> None:
    from selfeval_backend.model.selfeval_files import _fingerprint

    before = checkpoint(tmp_path / "a", bytes(3_000_000))
    after = checkpoint(tmp_path / "b", b"\1" * 2_000_000 + bytes(1_000_000))
    same = checkpoint(tmp_path / "c", bytes(3_000_000))

    assert _fingerprint(before) == _fingerprint(same) != _fingerprint(after)


def test_what_a_package_ships_is_not_ones_own() -> None:
    assert user_folder() in file_to_write(REFERENCE_FOLDER).parents


def test_saving_replaces_a_link_and_leaves_what_it_points_to(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, config=tuned(0.1))
    blob = (folder / "selfeval.json").resolve()
    tuned(0.5).save(folder)

    assert json.loads(blob.read_text())["policy"] == {"threshold": 0.1}
    assert not (folder / "selfeval.json").is_symlink()


@pytest.mark.parametrize("kind", ["dangling link", "folder"])
def test_a_file_that_is_there_and_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, kind: str
) -> None:
    if kind == "folder":
        (tmp_path / "selfeval.json").mkdir()
    else:
        (tmp_path / "selfeval.json").symlink_to("gone")

    with pytest.raises(ModelFilesError, match="cannot be read"):
        SelfEvalConfig.load(tmp_path)


@pytest.mark.slow
def test_the_doctor_says_which_file_is_used(tmp_path: Path) -> None:
    config = SelfEvalConfig.load(REFERENCE_FOLDER)
    assert config is not None
    path = file_to_write(REFERENCE_FOLDER)
    config.write(path)
    checks = {c.name: c for c in check_model_files("reference", with_weights=True).checks}
    assert checks["selfeval.json"].found.startswith(f"{path}: calibrated")

    path.parent.rename(path.parent.with_name("another"))
    checks = {c.name: c for c in check_model_files("reference", with_weights=True).checks}
    assert checks["selfeval.json"].status == "warning"
    assert "is not used" in checks["selfeval.json"].found


def test_of_a_fetched_model_it_goes_to_the_user_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIC_CACHE_DIR", str(tmp_path / "cache"))
    folder = checkpoint(tmp_path / "cache" / "models" / "smollm2" / "v1")
    file = file_to_write(folder)
    assert file.parent.parent == user_folder() / "smollm2"
    tuned(0.5).write(file)
    assert find_selfeval(folder).path == file
    newer = checkpoint(tmp_path / "cache" / "models" / "smollm2" / "v2", b"other weights")
    assert find_selfeval(newer).passed_over == (file,)
