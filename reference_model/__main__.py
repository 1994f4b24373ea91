"""The reference model, from nothing to the shipped folder.

``python -m reference_model`` trains the generator, and then its self-evaluation by the pipeline
that users have: ``aic train --config reference_model/reference.yaml`` is that second part alone. A
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import torch

from reference_model.generator import SIZES, train_generator
from reference_model.recipe import training_recipe
from selfeval_backend.model import BASE_FOLDER, REFERENCE_FOLDER
from selfeval_backend.training.optim import denormals_as_zero
from selfeval_backend.training.stages import make_pipeline

__all__ = ["main"]


def main() -> None:
    """Make the reference model, or a smaller relative of it, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model", description=__doc__.splitlines()[0] if __doc__ else None
    )
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
