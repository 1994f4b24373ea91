"""The stage of rollouts: samples of the model before its self-evaluation is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from selfeval_backend.chat import Chat
from selfeval_backend.checkpoints import locate_checkpoint
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import Engine
from selfeval_backend.hashing import Hasher
from selfeval_backend.model import choose_engine
from selfeval_backend.samples.filling import fill
from selfeval_backend.samples.kept import KeptSamples
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.provenance import files_digest
from selfeval_backend.samples.recorder import Draw, RecordingPlan
from selfeval_backend.samples.records import RecordingInfo
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.training.base_model import (
    Asking,
    load_asking,
    model_inputs,
    open_engine,
)
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.prompts import stored_prompts
from selfeval_backend.training.recipe import Recipe

__all__ = ["BaseSamples", "RecipeSamples", "RolloutStage", "plan_of"]


def plan_of(recipe: Recipe, *, num_samples: int, temperature: float = 1.0) -> RecordingPlan:
    """Return what a recipe draws of a prompt: samples without evaluations, at one temperature."""
    settings = recipe.rollouts
    return RecordingPlan(
        num_samples=num_samples,
        temperature=temperature,
        top_p=settings.top_p,
        annealed=False,
        evaluate=False,
        max_tokens=settings.max_tokens,
        untrained_question=False,
        seed=recipe.seed,
        shard_prompts=settings.shard_prompts,
    )


@dataclass(frozen=True, kw_only=True)
class RecipeSamples(ABC):
    """Samples that a recipe draws; see `selfeval_backend.samples.filling.Job`."""

    recipe: Recipe
    prompts: Path
    """Folder of the prompts."""
    model: str | Path
    """A folder, or a model's name."""
    name: str
    """What the model is called in the records."""
    plan: RecordingPlan

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was loaded: another process loads its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def prompts_per_file(self) -> int:
        """How many are drawn together."""
        return self.recipe.rollouts.shard_prompts

    @property
    def kept(self) -> KeptSamples | None:
        """Samples that are used before any is drawn: none."""
        return None

    @cached_property
    def _asking(self) -> Asking:
        return load_asking(self.recipe)

    @property
    def chat(self) -> Chat:
        """How the model is spoken to."""
        return self._asking.chat

    @property
    def evaluator(self) -> SelfEvaluator:
        """Its self-evaluation, not trained yet or not calibrated yet."""
        return self._asking.evaluator

    @cached_property
    def info(self) -> RecordingInfo:
        """What all samples share."""
        recipe, plan = self.recipe, self.plan
        return RecordingInfo(
            task=recipe.name,
            model=self.name,
            engine=recipe.rollouts.engine or choose_engine(),
            seed=recipe.seed,
            num_samples=plan.num_samples,
            temperature=plan.temperature,
            annealed=plan.annealed,
            checkpoints=(),
            max_tokens=plan.max_tokens,
            top_p=plan.top_p,
            num_question_tokens=len(self.evaluator.question_ids),
            selfeval=self.evaluator.config,
            untrained_question=False,
            model_files=files_digest(self.model, recipe.folder),
        )

    def draw(self, prompt: Prompt, plan: RecordingPlan) -> Draw:
        """Return a prompt with its own seed: the same whatever other prompts there are."""
        seed = derive_seed(self.recipe.seed, int(prompt.prompt_id, 16))
        return Draw(prompt=prompt, seed=seed, plan=plan)

    @abstractmethod
    def draws(self) -> Iterator[Draw]:
        """Yield what is drawn, the same each time."""

    def open_engine(self) -> Engine:
        """Start the engine that draws; a model's name is downloaded if need be."""
        return open_engine(locate_checkpoint(self.model), self.recipe.rollouts)


class BaseSamples(RecipeSamples):
    """What the base model draws: prompts to learn from, to watch, and to compare with after."""

    @classmethod
    def of(cls, recipe: Recipe, prompts: Path) -> BaseSamples:
        """Return the samples of a recipe's rollouts."""
        settings = recipe.rollouts
        return cls(
            recipe=recipe,
            prompts=prompts,
            model=recipe.model,
            name=recipe.model,
            plan=plan_of(recipe, num_samples=settings.samples, temperature=settings.temperature),
        )

    @cached_property
    def kept(self) -> KeptSamples | None:
        """Those of another run, if the recipe names one."""
        folder = self.recipe.rollouts.kept
        return None if folder is None else KeptSamples.load(folder, self.info)

    def draws(self) -> Iterator[Draw]:
        """Yield each prompt.

        Of test prompts, as many samples at temperature 1 as are drawn again after fine-tuning.
        """
        after, num_test = self.recipe.calibrate, 0
        fresh = plan_of(self.recipe, num_samples=after.samples)
        for prompt in stored_prompts(self.prompts, ("train", "validation", "test")):
            if prompt.split != "test":
                yield self.draw(prompt, self.plan)
            elif num_test < after.max_test_prompts:
                num_test += 1
                yield self.draw(prompt, fresh)


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
        samples = BaseSamples.of(recipe, upstream["prompts"])
        counts = [draw.plan.num_samples for draw in samples.draws()]
        lines = [
            f"{sum(counts):,} samples of {len(counts):,} prompts, "
            f"at most {sum(counts) * settings.max_tokens:,} tokens"
        ]
        if samples.kept is not None:
            lines.append(f"those that {settings.kept} holds are used, and not drawn")
        return lines

    def run(self, place: Workplace) -> dict[str, Any]:
        """Draw what is not drawn yet."""
        return fill(
            BaseSamples.of(place.recipe, place.upstream["prompts"]),
            place.folder,
            name=self.name,
            progress=place.progress,
            ray_workers=place.recipe.rollouts.ray_workers,
        )
