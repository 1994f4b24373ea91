"""Recipes are checked whole, and errors name the field."""

from pathlib import Path

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.training.recipe import SHIPPED_RECIPES, load_recipe

GOOD = """
name: mine
model: folder
folder: runs/mine
prompts: {source: {kind: file, path: prompts.jsonl}}
rewards: {kind: math}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD)
    return file


@pytest.mark.parametrize("name", SHIPPED_RECIPES)
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_what_is_shipped() -> None:
    assert SHIPPED_RECIPES == ("gsm8k", "lmsys-armorm")


def test_a_field_is_set_from_outside(path: Path) -> None:
    recipe = load_recipe(path, ["preferences.tie_threshold=0.05", "finetune.contrast={steps: 3}"])
    assert recipe.preferences.tie_threshold == 0.05
    assert recipe.finetune.contrast is not None
    assert recipe.finetune.contrast.steps == 3


def test_a_name_that_looks_like_a_date_is_text(path: Path) -> None:
    for name in ("2024-10-02", "2024-13-45"):
        assert load_recipe(path, [f"name={name}"]).name == name


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("preferences.tie_treshold=1", "preferences.tie_treshold"),
        ("rollouts.samples=1", "rollouts.samples"),
        ("rewards.kind=magic", "rewards"),
        ("prompts.test=0.9", "prompts"),
        ("finetune.batch_size=3", "finetune"),
        ("finetune.optimizer=muon", "finetune"),
        ("calibrate.prune_at=[[33]]", "calibrate"),
        ("calibrate.annealing=[]", "calibrate.annealing"),
        ("calibrate.positions=[64, 32]", "calibrate"),
        ("seed=-1", "seed"),
        ("name=a/b", "name"),
        ("rewards={kind: function, function: nothing}", "rewards.function.function"),
        ("model=null", "model"),
        ("nonsense", "set"),
    ],
)
def test_what_is_wrong_is_named(path: Path, change: str, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_recipe(path, [change])
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["[1, 2]", "{", "\x00"])
def test_what_is_no_mapping_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="YAML"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="gsm8k, lmsys-armorm"):
        load_recipe(tmp_path / "none.yaml")


def test_the_recipe_of_the_reference_model_is_said_to_be_in_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="the project's repository") as caught:
        load_recipe("reference")
    assert caught.value.field == "config"
    assert "aic train --config reference_model/reference.yaml" in str(caught.value)
