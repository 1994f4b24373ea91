"""Work of numbered parts, done by actors of a Ray cluster.

What the parts are written to has to be on a file system that all of its machines see. A lost worker
costs the parts that it was at, and what comes out is what one machine would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfeval_backend.errors import EngineError, MissingDependencyError

__all__ = ["Row", "run_on_ray"]

Row = dict[str, Any]


def run_on_ray(
    actor: type[Callable[[Row], Row]],
    arguments: Sequence[object],
    numbers: Sequence[int],
    *,
    workers: int,
) -> Iterator[Row]:
    """Call actors with the row ``{"number": n}`` of each number, and yield what they return.

    A cluster that is there (RAY_ADDRESS) is used, else one is started on this machine.

    Args:
        actor: Its class; each worker makes one.
        arguments: Of the class; they are pickled.
        numbers: Of the parts.
        workers: How many actors there are; each has a GPU where there are any.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: A worker failed; finished parts are kept.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise MissingDependencyError("ray", extra="ray") from error
    import torch

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        work = ray.data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        )
        done = work.map(
            actor,
            fn_constructor_args=list(arguments),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if torch.cuda.is_available() else 0,
        )
        yield from done.iter_rows()
    except RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise EngineError(f"Ray: a worker failed: {reason}") from error
    finally:
        if started:
            ray.shutdown()
