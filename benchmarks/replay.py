"""How long a million replays take: 1,000 policies on 1,000 prompts x 16 samples.

``python benchmarks/replay.py RECORDING``: prompts of the recording are repeated up to 1,000.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from dataclasses import replace
from pathlib import Path

from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.recordings import Recording, load_recording
from selfeval_backend.evaluation.table import replay_table
from selfeval_backend.settings import Settings

_THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
_PRUNINGS: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = (
    ((), ()),
    ((40,), (0.5,)),
    ((40,), (0.25,)),
    ((48,), (0.5,)),
    ((48,), (0.375,)),
    ((48,), (0.25,)),
    ((32, 64), (0.75, 0.25)),
    ((32, 64), (0.5, 0.25)),
    ((40, 64), (0.5, 0.25)),
    ((48, 80), (0.5, 0.25)),
)


def policies(num_policies: int) -> list[Method]:
    """Return adaptive policies, with and without pruning, and pruning alone."""
    adaptive = [
        Settings(threshold=t, annealing=a, batches=b, prune_at=at, keep_fraction=keep or 0.5)
        for t, a, b, (at, keep) in itertools.product(
            _THRESHOLDS, ("annealed", "constant"), (None, (1, 4), (2,)), _PRUNINGS
        )
    ]
    alone = [
        Settings(adaptive=False, prune_at=at, keep_fraction=keep)
        for at in ((32,), (40,), (48,), (64,), (40, 64), (48, 80))
        for keep in itertools.product((0.75, 0.5, 0.375, 0.25, 0.125), repeat=len(at))
    ]
    chosen = [*alone, *adaptive][:num_policies]
    return [Method(name=str(place), settings=s) for place, s in enumerate(chosen)]


def main() -> None:
    """Replay, and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--processes", type=int)
    args = parser.parse_args()
    recording = load_recording(args.recording)
    prompts = tuple(
        replace(prompt, prompt_id=f"{prompt.prompt_id}/{turn}")
        for turn, prompt in zip(
            range(args.prompts), itertools.cycle(recording.prompts), strict=False
        )
    )
    methods = policies(args.policies)
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    replay_table(
        Recording(info=recording.info, prompts=prompts), methods, num_processes=args.processes
    )
    wall = time.monotonic() - began
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(methods):,} policies on {len(prompts):,} prompts: {wall:.1f} s wall, "
        f"{children.ru_utime - used:.1f} s of CPU in the processes; most memory "
        f"{memory:.0f} MiB here, {children.ru_maxrss / 1024:.0f} MiB in the largest process"
    )


if __name__ == "__main__":
    main()
