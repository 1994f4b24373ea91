"""The stage of rollouts: samples of the model before its self-evaluation is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selfeval_backend.controller import derive_seed
from selfeval_backend.hashing import Hasher
from selfeval_backend.model import choose_engine, locate_model_files
from selfeval_backend.samples.filling import Job, fill
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.provenance import files_digest
from selfeval_backend.samples.recorder import Draw, Recorder, RecordingPlan
from selfeval_backend.training.base_model import load_asking, model_inputs, open_engine
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.prompts import stored_prompts
from selfeval_backend.training.recipe import Recipe

__all__ = ["RolloutStage", "draw_of", "job_of", "open_recorder", "plan_of"]


def plan_of(recipe: Recipe, *, num_samples: int, temperature: float = 1.0) -> RecordingPlan:
    """Return what a recipe draws of a prompt: samples without evaluations, at one temperature."""
    return RecordingPlan(
        num_samples=num_samples,
        temperature=temperature,
        top_p=recipe.rollouts.top_p,
        top_k=recipe.rollouts.top_k,
        min_p=recipe.rollouts.min_p,
        repetition_penalty=recipe.rollouts.repetition_penalty,
        annealed=False,
        evaluate=False,
        max_tokens=recipe.rollouts.max_tokens,
        untrained_question=False,
        seed=recipe.seed,
    )


def draw_of(recipe: Recipe, prompt: Prompt, plan: RecordingPlan) -> Draw:
    """Return a prompt with a seed of its own: the same whatever other prompts there are."""
    seed = derive_seed(recipe.seed, int(prompt.prompt_id, 16))
    return Draw(prompt=prompt, seed=seed, plan=plan)


def open_recorder(recipe: Recipe, model: str | Path) -> Recorder:
    """Start what draws samples of a model; a model's name is downloaded if need be."""
    asking = load_asking(recipe)
    engine = open_engine(locate_model_files(model), recipe.rollouts)
    return Recorder(engine=engine, chat=asking.chat, evaluator=asking.evaluator)


def job_of(
    recipe: Recipe,
    *,
    model: str | Path,
    name: str,
    plan: RecordingPlan,
    draws: Callable[[], Iterator[Draw]],
    kept: Path | None = None,
) -> Job:
    """Return what a folder is filled with.

    Args:
        recipe: Says how samples are drawn.
        model: A folder, or a model's name.
        name: What the model is called in the records.
        plan: What is drawn of most prompts.
        draws: Yields the prompts, the same each time.
        kept: A folder of samples that are used before any is drawn.

    Raises:
        DatasetError: What is kept is of another model, or was drawn in another way.
    """
    info = plan.info(
        task=recipe.name,
        model=name,
        engine=recipe.rollouts.engine or choose_engine(),
        evaluator=load_asking(recipe).evaluator,
        model_files=files_digest(model, recipe.folder),
    )
    return Job(
        info=info,
        draws=draws,
        open_recorder=partial(open_recorder, recipe, model),
        prompts_per_file=recipe.rollouts.shard_prompts,
        kept=None if kept is None else KeptSamples(kept, info),
    )


def _base_job(recipe: Recipe, prompts: Path) -> Job:
    settings = recipe.rollouts
    plan = plan_of(recipe, num_samples=settings.samples, temperature=settings.temperature)
    return job_of(
        recipe,
        model=recipe.model,
        name=recipe.model,
        plan=plan,
        draws=partial(_draws, recipe, prompts, plan),
        kept=settings.kept,
    )


def _draws(recipe: Recipe, prompts: Path, plan: RecordingPlan) -> Iterator[Draw]:
    """Yield prompts to learn from, to watch, and to compare with after.

    Of test prompts, as many samples at temperature 1 as are drawn again after fine-tuning.
    """
    after, num_test = recipe.calibrate, 0
    fresh = plan_of(recipe, num_samples=after.samples)
    for prompt in stored_prompts(prompts, ("train", "validation", "test")):
        if prompt.split != "test":
            yield draw_of(recipe, prompt, plan)
        elif num_test < after.max_test_prompts:
            num_test += 1
            yield draw_of(recipe, prompt, fresh)


class RolloutStage:
    """Samples of the model before its self-evaluation is trained."""

    name = "rollouts"
    needs = ("prompts",)

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the model, how it is sampled, and the samples that are there already."""
        after, kept = recipe.calibrate, recipe.rollouts.kept
        found = {
            **model_inputs(recipe, hasher),
            "seed": recipe.seed,
            "rollouts": recipe.rollouts.model_dump(mode="json", exclude={"ray_workers", "kept"}),
            "test": [after.samples, after.max_test_prompts],
        }
        if kept is not None:
            found["kept"] = hasher.folder(kept, ("samples-*.parquet",))
        return found

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say how many samples would be drawn, and of how many tokens at most."""
        settings = recipe.rollouts
        if "prompts" not in upstream:
            return [f"{settings.samples} samples a prompt, of up to {settings.max_tokens} tokens"]
        job = _base_job(recipe, upstream["prompts"])
        counts = [draw.plan.num_samples for draw in job.draws()]
        lines = [
            f"{sum(counts):,} samples of {len(counts):,} prompts, "
            f"at most {sum(counts) * settings.max_tokens:,} tokens"
        ]
        if job.kept is not None:
            lines.append(f"those that {settings.kept} holds are used, and not drawn")
        return lines

    def run(self, place: Workplace) -> dict[str, Any]:
        """Draw what is not drawn yet."""
        return fill(
            _base_job(place.recipe, place.upstream["prompts"]),
            place.folder,
            name=self.name,
            progress=place.progress,
            ray_workers=place.recipe.rollouts.ray_workers,
        )
