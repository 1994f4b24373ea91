"""The reference model, from nothing to the shipped folder.

``python -m selfeval_backend.reference.recipe`` trains the generator, which is this project's own
affair, and then its self-evaluation by the pipeline that users have (``aic train --config
reference``). A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import torch

from selfeval_backend.checkpoints import BASE_FOLDER, REFERENCE_FOLDER
from selfeval_backend.reference.generator import SIZES, train_generator
from selfeval_backend.training.optim import denormals_as_zero
from selfeval_backend.training.recipe import Recipe, load_recipe
from selfeval_backend.training.stages import make_pipeline

__all__ = ["main", "training_recipe"]

_SMALLER_NOTES = """\
It solves the reference model's number puzzles, less well, and nothing else: it was made to see how
the method fares with a generator of less capability (`make sizes`)."""

_PUZZLES = "selfeval_backend.reference.task"


def training_recipe(size: str, generator: Path, folder: Path) -> Recipe:
    """Return how a generator's self-evaluation is trained: the shipped recipe, or half of it.

    The smaller ones have no skills, so their prompts are puzzles alone.
    """
    body = load_recipe("reference").model_dump(mode="json")
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


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=tuple(SIZES), default="reference")
    parser.add_argument("--folder", type=Path, help="default: build/ and the size")
    parser.add_argument("--until", choices=("generator", "report"), default="report")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    arguments = parser.parse_args()
    if arguments.install and arguments.size != "reference":
        parser.error("--install is for --size reference: that is the model that ships")
    folder = arguments.folder or Path("build") / arguments.size
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    generator = train_generator(SIZES[arguments.size], folder, log)
    if arguments.until == "generator":
        return
    recipe = training_recipe(arguments.size, generator, folder / "training")
    pipeline = make_pipeline(recipe, progress=lambda *_: None, log=log)
    finished = pipeline.run("report") / "model"
    if arguments.install:
        _install(generator, BASE_FOLDER)
        _install(finished, REFERENCE_FOLDER)


def _install(source: Path, target: Path) -> None:
    """Put a model in the place of another; no file, and no card, of the other is left."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


if __name__ == "__main__":
    with denormals_as_zero():
        main()
