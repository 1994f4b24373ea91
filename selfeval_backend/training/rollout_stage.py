"""The stage of rollouts: samples of the model before its self-evaluation is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfeval_backend.hashing import Hasher
from selfeval_backend.training.base_model import base_folder, model_inputs, open_engine
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.rollouts import draw_shards, drawing_of, planned_draws
from selfeval_backend.training.shards import shard_name, shards_of

__all__ = ["RolloutStage"]


class RolloutStage:
    """Samples of the model before its self-evaluation is trained."""

    name = "rollouts"
    needs = ("prompts",)

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the model, and how it is sampled."""
        after = recipe.calibrate
        return {
            **model_inputs(recipe, hasher),
            "seed": recipe.seed,
            "rollouts": recipe.rollouts.model_dump(mode="json", exclude={"ray_workers"}),
            "test": [after.samples, after.max_test_prompts],
        }

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say how many samples would be drawn, and of how many tokens at most."""
        settings = recipe.rollouts
        if "prompts" not in upstream:
            return [f"{settings.samples} samples a prompt, of up to {settings.max_tokens} tokens"]
        draws = [d.temperatures for d in planned_draws(recipe, upstream["prompts"])]
        num_samples = sum(map(len, draws))
        return [
            f"{num_samples:,} samples of {len(draws):,} prompts, "
            f"at most {num_samples * settings.max_tokens:,} tokens"
        ]

    def run(self, place: Workplace) -> dict[str, Any]:
        """Draw what is not drawn yet."""
        recipe = place.recipe
        if recipe.rollouts.ray_workers is not None:
            self._on_ray(place)
        model = base_folder(recipe)
        return draw_shards(
            lambda: planned_draws(recipe, place.upstream["prompts"]),
            folder=place.folder,
            drawing=drawing_of(recipe),
            open_engine=lambda: open_engine(model, recipe.rollouts),
            shard_prompts=recipe.rollouts.shard_prompts,
            name=self.name,
            progress=place.progress,
        )

    def _on_ray(self, place: Workplace) -> None:
        """Let a cluster draw what is missing; what is drawn is counted afterwards."""
        from selfeval_backend.training.ray_rollouts import draw_on_ray

        prompts, size = place.upstream["prompts"], place.recipe.rollouts.shard_prompts
        total = sum(1 for _ in planned_draws(place.recipe, prompts))
        done = {path.name for path in shards_of(place.folder)}
        missing = [i for i in range(-(-total // size)) if shard_name(i) not in done]
        num_done = min(len(done) * size, total)
        if missing:
            for count in draw_on_ray(
                place.recipe, prompts=prompts, folder=place.folder, missing=missing
            ):
                num_done += count
                place.progress(self.name, num_done, total)
