"""The rollouts of several machines: the same shards, drawn by engines of a Ray cluster.

The folder of the run has to be on a file system that all of them see. Each actor holds one engine,
draws whole shards, and writes them itself; so a lost worker costs the shards that it was at, and
what comes out is what one machine would have drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from selfeval_backend.errors import EngineError, MissingDependencyError
from selfeval_backend.training.base_model import base_folder, open_engine
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.rollouts import (
    ROLLOUT_SCHEMA,
    PlannedDraw,
    draw_rows,
    drawing_of,
    planned_draws,
)
from selfeval_backend.training.shards import shard_name, write_rows

__all__ = ["draw_on_ray"]


class ShardDrawer:
    """An actor: one engine, one shard at a time.

    Args:
        recipe: In JSON.
        prompts: Folder of the prompts.
        folder: Of the shards.
    """

    def __init__(self, recipe: str, prompts: str, folder: str) -> None:
        self._recipe = Recipe.model_validate_json(recipe)
        self._prompts, self._folder = Path(prompts), Path(folder)
        self._drawing = drawing_of(self._recipe)
        self._engine = open_engine(base_folder(self._recipe), self._recipe.rollouts)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Draw the shard that the row names, and write it."""
        index = int(row["shard"])
        size = self._recipe.rollouts.shard_prompts
        some: Iterator[PlannedDraw] = islice(
            planned_draws(self._recipe, self._prompts), index * size, (index + 1) * size
        )
        rows = asyncio.run(draw_rows(list(some), self._engine, self._drawing))
        write_rows(self._folder / shard_name(index), rows, ROLLOUT_SCHEMA)
        return {"prompts": len(rows)}


def draw_on_ray(
    recipe: Recipe, *, prompts: Path, folder: Path, missing: Sequence[int]
) -> Iterator[int]:
    """Draw the missing shards, and yield the prompts of each as it is finished.

    A cluster that is there (RAY_ADDRESS) is used, else one is started on this machine.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: A worker failed; finished shards are kept.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise MissingDependencyError("ray", extra="ray") from error
    import torch

    workers = recipe.rollouts.ray_workers or 1
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        work = ray.data.from_items(
            [{"shard": index} for index in missing], override_num_blocks=len(missing)
        )
        done = work.map(
            ShardDrawer,
            fn_constructor_args=[
                recipe.model_dump_json(),
                str(prompts.resolve()),
                str(folder.resolve()),
            ],
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if torch.cuda.is_available() else 0,
        )
        for row in done.iter_rows():
            yield int(row["prompts"])
    except RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise EngineError(f"Ray: a worker failed: {reason}") from error
    finally:
        if started:
            ray.shutdown()
