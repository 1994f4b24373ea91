"""How long a million replays take: 1,000 policies on 1,000 prompts x 16 samples.

Exit status 1 if it takes more than 60 s, or all processes together more than 2 GiB. Samples are
those of a recording, whose prompts are repeated up to the number asked for; without one they are
made up, of the lengths that the reference model's have, and about as sure of themselves.

    python benchmarks/replay.py [--recording FOLDER] [--processes N] [--json] [--plot PNG]
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from common import make_parser, median_figure, report

from selfeval_backend.chat import Message
from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.table import replay_table
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.policy import Annealed
from selfeval_backend.samples.records import PromptRecord, Recording, RecordingInfo, SampleRecord
from selfeval_backend.samples.store import load_recording
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.settings import Settings

MAX_SECONDS = 60.0
MAX_MIB = 2048.0

_NUM_SAMPLES = 16
_CHECKPOINTS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128)
_THRESHOLDS = (
    *(0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    *(0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995),
)
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
    """Return pruning alone, and adaptive policies with and without pruning."""
    alone = [
        Settings(adaptive=False, prune_at=at, keep_fraction=keep)
        for at in ((32,), (40,), (48,), (64,), (40, 64), (48, 80))
        for keep in itertools.product((0.75, 0.5, 0.375, 0.25, 0.125), repeat=len(at))
    ]
    adaptive = [
        Settings(threshold=t, annealing=a, batches=b, prune_at=at, keep_fraction=keep or 0.5)
        for t, a, b, (at, keep) in itertools.product(
            _THRESHOLDS, ("annealed", "constant"), (None, (1, 4), (2,)), _PRUNINGS
        )
    ]
    chosen = [*alone, *adaptive][:num_policies]
    if len(chosen) < num_policies:
        raise SystemExit(f"there are {len(chosen)} policies, {num_policies} were asked for")
    return [Method(name=str(place), settings=s) for place, s in enumerate(chosen)]


def made_up(num_prompts: int) -> Recording:
    """Return samples that are right now and then, and learn it as they go on."""
    rng = random.Random(0)
    annealed = Annealed(1.0)
    prompts = []
    for place in range(num_prompts):
        share_right = rng.betavariate(0.8, 0.7)
        samples = tuple(
            _made_up_sample(rng, index, temperature, share_right)
            for index in range(_NUM_SAMPLES)
            for temperature in (1.0, annealed.temperature(index))
        )
        prompt_ids = tuple(rng.choices(range(300), k=60))
        prompts.append(
            PromptRecord(
                key=str(place),
                prompt_id=str(place),
                messages=(Message(role="user", content=str(place)),),
                prompt_ids=prompt_ids,
                samples=samples,
            )
        )
    info = RecordingInfo(
        task="made up",
        model="reference",
        engine="none",
        seed=0,
        num_samples=_NUM_SAMPLES,
        temperature=1.0,
        annealed=True,
        checkpoints=_CHECKPOINTS,
        max_tokens=None,
        num_question_tokens=5,
        selfeval=SelfEvalConfig.load(REFERENCE_FOLDER) or SelfEvalConfig(),
    )
    return Recording(info=info, prompts=tuple(prompts))


def _made_up_sample(
    rng: random.Random, index: int, temperature: float, share_right: float
) -> SampleRecord:
    right = rng.random() < share_right
    num_tokens = min(150, max(50, round(rng.gauss(93, 14))))
    places = [at for at in _CHECKPOINTS if at < num_tokens]
    said = {}
    for at in [*places, num_tokens]:
        learned = max(0.0, (at - 32) / (num_tokens - 32))
        logit = rng.gauss((2.5 if right else -2.0) * learned, 0.1 + 0.6 * learned)
        said[at] = (logit / 2, -logit / 2)
    return SampleRecord(
        index=index,
        temperature=temperature,
        seed=rng.getrandbits(62),
        token_ids=tuple(rng.choices(range(300), k=num_tokens)),
        num_generated_tokens=num_tokens + 1,
        finish_reason="stop",
        text="made up",
        sum_logprob=-0.2 * num_tokens,
        label_logprobs=said,
        reward=float(right),
        answer=None,
    )


def repeated(recording: Recording, num_prompts: int) -> Recording:
    """Return as many prompts as asked for, the recorded ones over and over."""
    prompts = tuple(
        replace(prompt, prompt_id=f"{prompt.prompt_id}/{turn}")
        for turn, prompt in zip(
            range(num_prompts), itertools.cycle(recording.prompts), strict=False
        )
    )
    return Recording(info=recording.info, prompts=prompts)


def measure(
    recording: Recording, methods: list[Method], num_processes: int | None
) -> tuple[float, float]:
    """Return the seconds of wall time and of CPU, here and in other processes."""
    began, used = time.monotonic(), _cpu_seconds()
    replay_table(recording, methods, num_processes=num_processes)
    return time.monotonic() - began, _cpu_seconds() - used


def _cpu_seconds() -> float:
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def most_memory_mib(num_processes: int) -> float:
    """Return a bound of what all processes had at once: each as much as the largest had."""
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (here + num_processes * largest) / 1024


def main() -> int:
    """Replay, print seconds and memory, and say whether the limits are kept."""
    parser: argparse.ArgumentParser = make_parser(__doc__ or "", repetitions=1)
    parser.add_argument("--recording", type=Path, help="default: a made-up one")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.recording is None:
        recording = made_up(arguments.prompts)
    else:
        recording = repeated(load_recording(arguments.recording), arguments.prompts)
    methods = policies(arguments.policies)
    found = [measure(recording, methods, arguments.processes) for _ in range(arguments.repetitions)]
    memory = most_memory_mib(arguments.processes if arguments.processes > 1 else 0)
    figures = [
        median_figure("seconds", [wall for wall, _ in found], at_most=MAX_SECONDS),
        median_figure("cpu_seconds", [cpu for _, cpu in found]),
        median_figure("most_memory_mib", [memory], at_most=MAX_MIB),
    ]
    facts = {
        "policies": arguments.policies,
        "prompts": arguments.prompts,
        "processes": arguments.processes,
        "recording": "made up" if arguments.recording is None else recording.info.task,
    }
    return report(figures, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
