"""How the reference model and its smaller relatives are made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reference_model import __main__ as command_line
from reference_model.generator import (
    SIZES,
    GeneratorRecipe,
    Lesson,
    new_generator,
    train_generator,
)
from reference_model.recipe import RECIPE_FILE, training_recipe
from reference_model.skill_task import prompts
from selfeval_backend.importing import import_function
from selfeval_backend.training.recipe import load_recipe

REFERENCE = SIZES["reference"]


def test_smaller_generators_know_nothing_of_skills() -> None:
    for size in ("small", "medium"):
        assert all(lesson.skill_share == 0 for lesson in SIZES[size].lessons)
        body = training_recipe(size, Path("g"), Path("f")).model_dump_json()
        assert "skill" not in body


def test_copying_comes_first_and_puzzles_are_shown_beside_skills() -> None:
    copying = [lesson.random_tokens is not None for lesson in REFERENCE.lessons]
    mixed = [0 < lesson.skill_share < 1 for lesson in REFERENCE.lessons]
    assert copying.index(True) == 0 < mixed.index(True)
    assert mixed[-1] and REFERENCE.lessons[-1].num_cuts


def test_lessons_have_names_of_their_own() -> None:
    for size in SIZES.values():
        assert len({lesson.name for lesson in size.lessons}) == len(size.lessons)


def test_the_shipped_recipe_trains_the_generator_that_ships() -> None:
    assert load_recipe(RECIPE_FILE).model == "reference-base"


def test_self_evaluation_is_trained_on_puzzles_and_skills() -> None:
    recipe = training_recipe("reference", Path("g"), Path("f"))
    assert recipe.prompts.source.kind == "function"
    assert import_function("function", recipe.prompts.source.function) is prompts
    assert recipe.calibrate.max_test_prompts == recipe.prompts.source.arguments["test"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[tuple[GeneratorRecipe, Path]]:
    """Run the command line, without training, and return what it would train, and where."""
    trained: list[tuple[GeneratorRecipe, Path]] = []

    def noted(chosen: GeneratorRecipe, folder: Path, log: Callable[[str], None]) -> Path:
        trained.append((chosen, folder))
        return folder / "generator"

    monkeypatch.setattr(command_line, "train_generator", noted)
    monkeypatch.setattr(sys, "argv", ["reference_model", "--until", "generator", *arguments])
    command_line.main()
    return trained


def test_each_size_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == [(REFERENCE, Path("build/reference"))]
    assert run(monkeypatch, "--size", "small") == [(SIZES["small"], Path("build/small"))]
    with pytest.raises(SystemExit):
        run(monkeypatch, "--size", "small", "--install")


@pytest.mark.slow
def test_a_generator_is_taught_lesson_by_lesson_and_says_so_on_its_card(tmp_path: Path) -> None:
    lessons = (
        Lesson(name="copying", steps=2, random_tokens="again"),
        Lesson(name="puzzles", steps=2, num_cuts=3),
        Lesson(name="both", steps=2, skill_share=0.5),
    )
    tiny = GeneratorRecipe(
        num_layers=1, hidden_size=32, batch_size=4, has_skills=True, lessons=lessons
    )
    said: list[str] = []
    folder = train_generator(tiny, tmp_path, said.append)
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {lesson.name} | 2 |" in card for lesson in lessons)
    assert "puzzles, and 50% skills" in card and "3 to 24 random tokens, again" in card

    assert train_generator(tiny, tmp_path, said.append) == folder
    assert said[-1] == "generator: done before"
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(after[name], weights) for name, weights in before.items())


def test_a_model_with_skills_is_small_enough_to_ship() -> None:
    class Tokens:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

        def __len__(self) -> int:
            return 2048

    model = new_generator(REFERENCE, Tokens())  # type: ignore[arg-type]  # all that is asked
    assert 4 * sum(p.numel() for p in model.parameters()) < 7 * 1024 * 1024
