"""Where a model's files are, and how many weights they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfeval_backend.errors import ModelFilesError
from selfeval_backend.model import count_parameters, locate_model_files


def checkpoint(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def test_weights_of_all_files_are_counted(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    save_file({"a": np.zeros((3, 5), np.float32)}, folder / "model-1.safetensors")
    save_file({"b": np.zeros(7, np.float16)}, folder / "model-2.safetensors")
    assert count_parameters(folder) == 22


def test_no_weights_that_can_be_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    with pytest.raises(ModelFilesError, match="no weights as safetensors"):
        count_parameters(folder)
    (folder / "model.safetensors").write_bytes(b"not that")
    with pytest.raises(ModelFilesError, match=r"model\.safetensors cannot be read"):
        count_parameters(folder)


def test_the_models_that_ship_are_small() -> None:
    for name in ("reference", "reference-base"):
        weights = locate_model_files(name) / "model.safetensors"
        assert 4 * count_parameters(name) < weights.stat().st_size < 7e6
    with pytest.raises(ModelFilesError):
        locate_model_files("./reference-other")
