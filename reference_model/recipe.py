"""How the self-evaluation of a generator of the reference domain is trained."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.training.recipe import Recipe, load_recipe

__all__ = ["RECIPE_FILE", "training_recipe"]

RECIPE_FILE = Path(__file__).with_name("reference.yaml")
"""The recipe of the model that ships."""

_SMALLER_NOTES = """\
It solves the reference model's number puzzles, less well, and nothing else: it was made to see how
the method fares with a generator of less capability (`make sizes`)."""

_PUZZLES = "selfeval_backend.reference.task"


def training_recipe(size: str, generator: Path, folder: Path) -> Recipe:
    """Return how a generator's self-evaluation is trained: the shipped model's recipe, or half.

    The smaller ones have no skills, so their prompts are puzzles alone.

    Args:
        size: A key of `SIZES`.
        generator: Folder of its model files.
        folder: Where the stages work.
    """
    body = load_recipe(RECIPE_FILE).model_dump(mode="json")
    body.update(model=str(generator), folder=str(folder))
    if size != "reference":
        body["report"]["notes"] = _SMALLER_NOTES
        counts = {"train": 800, "validation": 50, "calibration": 200, "test": 300, "seed": 0}
        body["prompts"]["source"].update(function=f"{_PUZZLES}:prompts", arguments=counts)
        body["rewards"]["function"] = f"{_PUZZLES}:score"
        body["report"]["answer"] = "selfeval_backend.reference.problems:extract_answer"
        body["calibrate"].update(max_calibration_prompts=200, max_test_prompts=300)
        for phase in ("contrast", "preferences"):
            body["finetune"][phase]["steps"] = 250
    return Recipe.model_validate(body)
