"""``aic train``: train a model to evaluate itself, stage by stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from selfeval_backend.cli.console import say, show
from selfeval_backend.cli.running import one_line_errors
from selfeval_backend.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from selfeval_backend.samples.recorder import Progress
    from selfeval_backend.training.pipeline import Pipeline
    from selfeval_backend.training.recipe import Recipe

__all__ = ["STAGES", "train"]

STAGES = ("rollouts", "rewards", "preferences", "finetune", "calibrate", "report")


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help=f"The last stage to run: {', '.join(STAGES)}. Stages before it that are not "
            "finished are run first.",
            metavar="[STAGE]",
        ),
    ] = STAGES[-1],
    *,
    config: Annotated[
        str, typer.Option(help="A recipe: a YAML file, or the name of a shipped one.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field of the recipe: --set preferences.tie_threshold=0.02. May be "
            "repeated.",
            metavar="FIELD=VALUE",
            show_default="none",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and show what would be done. Do nothing."),
    ] = False,
) -> None:
    """Train the self-evaluation of the model that a recipe names.

    Finished stages are skipped, unless their inputs have changed. A stage that was stopped goes on
    where it was.
    """
    # Bars that libraries draw while they read weights: the stages have their own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with one_line_errors():
        from selfeval_backend.cli.fetching import fetch_first
        from selfeval_backend.cli.progress import live_progress

        recipe, make_pipeline = _load(config, changes or [])
        fetch_first(recipe.model)
        with live_progress() as progress:
            pipeline = make_pipeline(recipe, progress)
            if dry_run:
                _show_plan(pipeline, stage)
                return
            from selfeval_backend.training.optim import denormals_as_zero

            with denormals_as_zero():
                folder = pipeline.run(stage)
        show(str(folder))


def _load(config: str, changes: list[str]) -> tuple[Recipe, Callable[[Recipe, Progress], Pipeline]]:
    try:
        from selfeval_backend.training.recipe import load_recipe

        recipe = load_recipe(config, changes)
        from selfeval_backend.training.stages import make_pipeline as make
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "a library", extra="train") from error
    return recipe, lambda recipe, progress: make(recipe, progress=progress, log=say)


def _show_plan(pipeline: Pipeline, until: str) -> None:
    from selfeval_backend.cli.console import plain_table, show_table

    table = plain_table()
    for name in ("stage", "state", "inputs", "what it would do"):
        table.add_column(name)
    for plan in pipeline.plan(until):
        table.add_row(plan.stage, plan.state, (plan.fingerprint or "")[:12], "\n".join(plan.lines))
    show_table(table)
