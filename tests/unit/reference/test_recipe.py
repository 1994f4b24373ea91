"""How the reference model is made, with skills and without."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selfeval_backend.reference import recipe
from selfeval_backend.reference.recipe import (
    SIZES,
    GeneratorRecipe,
    new_generator,
    training_recipe,
    with_skills,
)
from selfeval_backend.reference.skill_task import prompts
from selfeval_backend.training.imports import import_function

PLAIN = SIZES["reference"]


def test_what_ships_knows_nothing_of_skills() -> None:
    assert all(size.skill_share == 0 and size.context_length == 512 for size in SIZES.values())
    body = training_recipe("reference", Path("g"), Path("f"), "").model_dump_json()
    assert "skill" not in body


def test_with_skills_as_many_puzzles_are_shown() -> None:
    skilled = with_skills(PLAIN)
    for field in ("plain_steps", "joint_steps"):
        shown = (1 - skilled.skill_share) * getattr(skilled, field)
        assert shown == pytest.approx(getattr(PLAIN, field))
    assert skilled.context_length == 1024
    assert (skilled.num_layers, skilled.hidden_size) == (PLAIN.num_layers, PLAIN.hidden_size)


def test_self_evaluation_is_trained_on_both() -> None:
    plain, skilled = (
        training_recipe("reference", Path("g"), Path("f"), "", skills=skills)
        for skills in (False, True)
    )
    assert skilled.prompts.source.kind == plain.prompts.source.kind == "function"
    assert import_function("function", skilled.prompts.source.function) is prompts
    arguments, before = skilled.prompts.source.arguments, plain.prompts.source.arguments
    assert arguments["test"] == 2 * before["test"]
    assert skilled.calibrate.max_test_prompts == arguments["test"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[tuple[GeneratorRecipe, Path]]:
    """Run the command line, without training, and return what it would train, and where."""
    trained: list[tuple[GeneratorRecipe, Path]] = []

    def noted(chosen: GeneratorRecipe, folder: Path, log: Callable[[str], None]) -> Path:
        trained.append((chosen, folder))
        return folder / "generator"

    monkeypatch.setattr(recipe, "train_generator", noted)
    monkeypatch.setattr(sys, "argv", ["recipe", "--until", "generator", *arguments])
    recipe.main()
    return trained


def test_skills_have_a_folder_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == [(PLAIN, Path("build/reference"))]
    assert run(monkeypatch, "--skills") == [(with_skills(PLAIN), Path("build/skills"))]
    with pytest.raises(SystemExit):
        run(monkeypatch, "--skills", "--size", "small")


def test_a_model_with_skills_is_small_enough_to_ship() -> None:
    class Tokens:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

        def __len__(self) -> int:
            return 2048

    model = new_generator(with_skills(PLAIN), Tokens())  # type: ignore[arg-type]  # all that is asked
    assert 4 * sum(p.numel() for p in model.parameters()) < 7 * 1024 * 1024
