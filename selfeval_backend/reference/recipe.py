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
from selfeval_backend.reference.generator import SIZES, SKILLED, train_generator
from selfeval_backend.training.recipe import Recipe, load_recipe
from selfeval_backend.training.stages import make_pipeline

__all__ = ["main", "training_recipe"]

_NOTES = """\
It shows this project's method for real on a machine without a GPU. It solves one kind of problem:
reach a target from two to four numbers by adding and taking away, all of them used once, and up to
three such puzzles after one another. It knows nothing else, and its figures say nothing of larger
models.

    Use 3, 19 and 25 to make 41, then 8 and 12 to make 20.

Trained from nothing by `make reference`. Puzzles are split by a hash of their numbers and target:
no puzzle of a test or calibration problem was ever trained on, in any wording, order or company."""

_SKILLS_NOTES = """\
It shows this project's method for real on a machine without a GPU. It solves number puzzles, up to
three after one another, and has a few skills beside them: to call tools, or none, with arguments
copied from the request; to tell what a tool answered; JSON; puzzles with a calculator; and to
answer from a given text in LlamaIndex's prompts. It knows nothing else, and its figures say nothing
of larger models.

Trained from nothing, on generated text alone, and split by a hash: no puzzle of a held-out problem,
nobody whom a held-out text is about, and no name of a held-out tool was ever trained on."""

_SMALLER_NOTES = """\
It knows what the reference model knows, and less well: it was made to see how the method fares with
a generator of less capability, with half of the reference model's training (`make sizes`)."""

_SPLITS = ("train", "validation", "calibration", "test")


def training_recipe(
    size: str, generator: Path, folder: Path, notes: str, *, skills: bool = False
) -> Recipe:
    """Return how a generator's self-evaluation is trained: the shipped recipe, or half of it.

    With skills half of the prompts are theirs, beside as many puzzles as before.
    """
    recipe = load_recipe("reference")
    body = recipe.model_dump(mode="json")
    body.update(model=str(generator), folder=str(folder))
    body["report"]["notes"] = notes
    if skills:
        source, task = body["prompts"]["source"], "selfeval_backend.reference.skill_task"
        counts = {name: 2 * source["arguments"][name] for name in _SPLITS}
        source.update(function=f"{task}:prompts", arguments={**source["arguments"], **counts})
        body["rewards"]["function"] = f"{task}:score"
        body["report"]["answer"] = f"{task}:answer_of_response"
        body["calibrate"].update(
            max_calibration_prompts=counts["calibration"], max_test_prompts=counts["test"]
        )
        for phase in ("contrast", "preferences"):
            body["finetune"][phase]["steps"] *= 2
    elif size != "reference":
        body["prompts"]["source"]["arguments"].update(train=800, test=300)
        body["calibrate"].update(max_test_prompts=300)
        for phase in ("contrast", "preferences"):
            body["finetune"][phase]["steps"] //= 2
    return Recipe.model_validate(body)


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=tuple(SIZES), default="reference")
    parser.add_argument("--skills", action="store_true", help="tools, JSON, answers from texts too")
    parser.add_argument("--folder", type=Path, help="default: build/ and the size, or build/skills")
    parser.add_argument("--until", choices=("generator", "report"), default="report")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    parser.add_argument("--notes", default="", help="for the model card")
    arguments = parser.parse_args()
    if arguments.install and arguments.size != "reference":
        parser.error("--install is for --size reference: that is the model that ships")
    if arguments.skills and arguments.size != "reference":
        parser.error("--skills is for --size reference: a smaller model has no room for them")
    folder = arguments.folder or Path("build") / ("skills" if arguments.skills else arguments.size)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    chosen = SKILLED if arguments.skills else SIZES[arguments.size]
    generator = train_generator(chosen, folder, log)
    if arguments.until == "generator":
        return
    about = _NOTES if arguments.size == "reference" else _SMALLER_NOTES
    about = _SKILLS_NOTES if arguments.skills else about
    notes = "\n\n".join(part for part in (about, arguments.notes) if part)
    recipe = training_recipe(
        arguments.size, generator, folder / "training", notes, skills=arguments.skills
    )
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
    main()
