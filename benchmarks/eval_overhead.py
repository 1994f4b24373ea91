"""What `aic eval` does itself, beside the model: its share of the wall time on the reference model.

The model's part is the CPU time of the engine's thread, which runs the model and draws the tokens,
and of the pass that reads token signals; torch has one thread. All else counts as `eval`'s own: the
loop and its policies, scoring, waiting for one another at checkpoints, writing and reading Parquet,
replays, intervals, the table. So other work on the machine counts too: measure on an idle one; the
share of the process's CPU time does not hang on that. Loading the model is left out. Exit status 1
if the share is more than 5 %.

    python benchmarks/eval_overhead.py [--prompts N] [--json] [--plot PNG]
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import make_parser, median_figure, report

from selfeval_backend.cli.eval import show_comparison
from selfeval_backend.engine.transformers.token_signals import SampleSignals, TokenSignals
from selfeval_backend.evaluation.comparison import default_checkpoints
from selfeval_backend.evaluation.tasks import ReferenceTask
from selfeval_backend.model import REFERENCE_FOLDER, SelfEvaluatingModel, load_model
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record

MAX_SHARE = 0.05


class TimedSignals:
    """Reads token signals, and adds up the CPU time that it takes."""

    def __init__(self) -> None:
        self._signals = TokenSignals.load(str(REFERENCE_FOLDER))
        self.cpu_s = 0.0

    def measure(
        self, prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]
    ) -> list[SampleSignals]:
        """Return the signals of each response."""
        began = time.thread_time()
        try:
            return self._signals.measure(prompts, responses)
        finally:
            self.cpu_s += time.thread_time() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one run."""

    sampling_s: float
    """Wall time of drawing, evaluating, scoring and writing."""
    comparing_s: float
    """Wall time of reading, replaying and printing."""
    model_s: float
    """CPU time of the model."""
    cpu_s: float
    """CPU time of the whole process."""

    @property
    def wall_s(self) -> float:
        """Seconds of the whole."""
        return self.sampling_s + self.comparing_s


def engine_cpu_s() -> float:
    """Return the CPU time of the engine's thread so far."""
    for thread in threading.enumerate():
        if thread.name == "transformers-engine":
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            return int(path.read_text(encoding="ascii").split()[0]) / 1e9
    return 0.0


async def measure(model: SelfEvaluatingModel, num_prompts: int, seed: int) -> Timing:
    """Evaluate once, as `aic eval` does."""
    task = ReferenceTask(num_prompts, seed=seed)
    checkpoints = default_checkpoints(model, max_tokens=None)
    plan = RecordingPlan(checkpoints=checkpoints, seed=seed)
    signals = TimedSignals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpu, engine, began = time.process_time(), engine_cpu_s(), time.perf_counter()
        await record(model, task, plan, folder, signals=signals)
        sampled = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            show_comparison(folder, {}, methods="all", seed=seed, as_json=False)
        return Timing(
            sampling_s=sampled - began,
            comparing_s=time.perf_counter() - sampled,
            model_s=engine_cpu_s() - engine + signals.cpu_s,
            cpu_s=time.process_time() - cpu,
        )


async def measure_all(num_prompts: int, repetitions: int) -> list[Timing]:
    """Evaluate as often as asked for, each time on other problems, after a few to warm up."""
    model = load_model("reference", engine="transformers")
    try:
        await measure(model, 2, seed=10_000)
        return [await measure(model, num_prompts, seed) for seed in range(repetitions)]
    finally:
        await model.aclose()


def main() -> int:
    """Measure, print, and say whether the limit is kept."""
    parser = make_parser(__doc__ or "", repetitions=3)
    parser.add_argument("--prompts", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    timings = asyncio.run(measure_all(arguments.prompts, arguments.repetitions))
    figures = [
        median_figure(
            "own_share_of_wall_time",
            [1.0 - t.model_s / t.wall_s for t in timings],
            at_most=MAX_SHARE,
        ),
        median_figure("own_share_of_cpu_time", [1.0 - t.model_s / t.cpu_s for t in timings]),
        median_figure("sampling_seconds", [t.sampling_s for t in timings]),
        median_figure("comparing_seconds", [t.comparing_s for t in timings]),
        median_figure("model_cpu_seconds", [t.model_s for t in timings]),
        median_figure("cpu_seconds", [t.cpu_s for t in timings]),
    ]
    facts = {"engine": "transformers", "prompts": arguments.prompts, "samples": 32}
    return report(figures, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
