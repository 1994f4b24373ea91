"""What fine-tuning refuses before it loads anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.training.finetune import FinetuneStage
from selfeval_backend.training.pipeline import Workplace
from tests.unit.training.conftest import MakeRecipe


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_weights_that_are_split_over_processes_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    place = Workplace(
        recipe=make_recipe(),
        folder=tmp_path,
        upstream={},
        progress=lambda *_: None,
        log=lambda _: None,
    )
    with pytest.raises(ConfigurationError, match=f"{variable}.*--multi_gpu"):
        FinetuneStage().run(place)
