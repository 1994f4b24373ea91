"""The stages of training, in order."""

from __future__ import annotations

from selfeval_backend.importing import import_function
from selfeval_backend.samples.recorder import Progress
from selfeval_backend.samples.recording import Log
from selfeval_backend.training.calibrate import CalibrateStage
from selfeval_backend.training.finetune import FinetuneStage
from selfeval_backend.training.pipeline import Pipeline, Stage
from selfeval_backend.training.preferences import PreferenceStage
from selfeval_backend.training.prompts import PromptStage
from selfeval_backend.training.recipe import ModelReward, Recipe
from selfeval_backend.training.report import ReportStage
from selfeval_backend.training.rewards import RewardStage, load_scorer
from selfeval_backend.training.rollouts import RolloutStage

__all__ = ["all_stages", "make_pipeline"]


def all_stages() -> tuple[Stage, ...]:
    """Return every stage, in order."""
    return (
        PromptStage(),
        RolloutStage(),
        RewardStage(),
        PreferenceStage(),
        FinetuneStage(),
        CalibrateStage(),
        ReportStage(),
    )


def make_pipeline(recipe: Recipe, *, progress: Progress, log: Log) -> Pipeline:
    """Return the pipeline that trains the self-evaluation of a recipe's model.

    Raises:
        ConfigurationError: A function that a late stage needs cannot be imported: refused here,
            before any token is drawn.
    """
    if not isinstance(recipe.rewards, ModelReward):
        load_scorer(recipe.rewards).close()
    if recipe.report.answer is not None:
        import_function("report.answer", recipe.report.answer, num_arguments=1)
    return Pipeline(recipe, all_stages(), progress=progress, log=log)
