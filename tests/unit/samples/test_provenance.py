"""What is known of the model that was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfeval_backend.samples.provenance import files_digest, files_of
from tests.conftest import ModelFactory
from tests.unit.samples.puzzler import Puzzler


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "a.safetensors", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    "name", ["config.json", "a.safetensors", "tokenizer.json", "chat_template.jinja", "b.json"]
)
def test_a_file_that_changed_is_another_model(checkpoint: Path, tmp_path: Path, name: str) -> None:
    before = files_digest(str(checkpoint), tmp_path / "kept")
    assert files_digest(str(checkpoint), tmp_path / "kept") == before
    (checkpoint / name).write_text("[1]")
    assert files_digest(str(checkpoint), tmp_path / "kept") != before


def test_a_policy_that_was_tuned_is_no_other_model(checkpoint: Path, tmp_path: Path) -> None:
    before = files_digest(str(checkpoint), tmp_path / "kept")
    (checkpoint / "selfeval.json").write_text("{}")
    (tmp_path / "kept" / "hashes.json").write_text("broken off")
    assert files_digest(str(checkpoint), tmp_path / "kept") == before


def test_of_a_scripted_model_nothing_is_known(make_model: ModelFactory, tmp_path: Path) -> None:
    assert files_of(make_model(Puzzler()), tmp_path) is None
