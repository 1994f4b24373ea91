"""What adaptive sampling of one question costs on vLLM, as ratios of times within one run.

In turn and repeatedly, 16 samples of one prompt to their full length: vLLM's own generation of
n=16; the same number of samples by this project's loop, with a self-evaluation of each at two
checkpoints and at the end and nothing pruned; and the same, pruned to 8 and to 4. Then one request
of vLLM's own against a question that stops after one sample. Medians of the ratios of each
repetition, because a machine's speed drifts over a run. Exit status 1 if a limit is exceeded.

vLLM's own n=8 and n=4 are timed too: `floor_pruned_8_4` is what pruning would cost if evaluating
were free, with 16 samples for the first 64 steps, 8 for the next 64 and 4 for the last 128.

vLLM's own generation is `LLM.generate` in this process, and one request to the same server over
HTTP. `reuse_of_full_blocks` is the prefix tokens that self-evaluations read from the KV cache, over
those that lie in full blocks of their running sample.

    python benchmarks/vllm_overhead.py [--http] [--large] [--json] [--plot PNG]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from common import (
    CHECKPOINTS,
    MAX_TOKENS,
    NUM_SAMPLES,
    Figure,
    make_parser,
    median_figure,
    model_folder,
    num_full_block_tokens,
    num_threads,
    report,
    serve,
)

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.controller import run
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.engine.server import connect_server_engine
from selfeval_backend.engine.vllm import load_vllm_engine
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings
from selfeval_backend.types import Outcome

MAX_OVERHEAD = 1.10
MAX_PRUNED = 0.65
MAX_FIRST_SAMPLE = 1.15
PROMPT = tuple(range(20, 68))

ALL_AT_ONCE = Settings(
    max_samples=NUM_SAMPLES, adaptive=False, prune_at=CHECKPOINTS, keep_fraction=1.0
)
PRUNED_8_4 = Settings(
    max_samples=NUM_SAMPLES, adaptive=False, prune_at=CHECKPOINTS, keep_fraction=0.5
)
ONE_SAMPLE = Settings(max_samples=NUM_SAMPLES, threshold=0.0, annealing="constant")

Plain = Callable[[int, int], Awaitable[None]]
"""vLLM's own generation of so many samples, with a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one repetition."""

    plain_s: float
    nothing_pruned_s: float
    pruned_s: float
    one_request_s: float
    one_sample_s: float
    plain_8_s: float
    plain_4_s: float
    reuse: float
    """Cached prefix tokens over those in full blocks."""

    def __str__(self) -> str:
        """Return one line: what each contender took."""
        return (
            f"plain {self.plain_s:.2f} s, nothing pruned {self.nothing_pruned_s:.2f}, "
            f"pruned {self.pruned_s:.2f}; one request {self.one_request_s:.2f}, "
            f"one sample {self.one_sample_s:.2f}"
        )

    @property
    def floor(self) -> float:
        """What pruning would cost if evaluating were free, over no pruning."""
        first, second = CHECKPOINTS
        steps = (first, second - first, MAX_TOKENS - second)
        times = (self.plain_s, self.plain_8_s, self.plain_4_s)
        pruned_s = sum(n * each for n, each in zip(steps, times, strict=True)) / MAX_TOKENS
        return pruned_s / self.plain_s


class Bench:
    """vLLM's own generation, and this project's loop on the same model."""

    def __init__(self, engine: Engine, plain: Plain) -> None:
        self._engine = engine
        self._plain = plain
        self._evaluator = SelfEvaluator(None, ChatTemplate.load(REFERENCE_FOLDER))

    async def repetition(self, seed: int) -> Timing:
        """Time every contender once."""
        plain_s = await self._time_plain(NUM_SAMPLES, seed)
        nothing_pruned_s, kept = await self._time_ours(ALL_AT_ONCE, seed)
        pruned_s, pruned = await self._time_ours(PRUNED_8_4, seed)
        one_request_s = await self._time_plain(1, seed)
        one_sample_s, _ = await self._time_ours(ONE_SAMPLE, seed)
        return Timing(
            plain_s=plain_s,
            nothing_pruned_s=nothing_pruned_s,
            pruned_s=pruned_s,
            one_request_s=one_request_s,
            one_sample_s=one_sample_s,
            plain_8_s=await self._time_plain(8, seed),
            plain_4_s=await self._time_plain(4, seed),
            reuse=min(reuse(kept), reuse(pruned)),
        )

    async def _time_plain(self, num_samples: int, seed: int) -> float:
        began = time.perf_counter()
        await self._plain(num_samples, seed)
        return time.perf_counter() - began

    async def _time_ours(self, settings: Settings, seed: int) -> tuple[float, Outcome]:
        began = time.perf_counter()
        outcome = await run(
            PROMPT,
            engine=self._engine,
            evaluator=self._evaluator,
            policy=settings.policy(),
            limits=settings.limits(),
            sampling=SamplingParams(
                temperature=1.0, max_tokens=MAX_TOKENS, seed=seed, stop_token_ids=frozenset()
            ),
        )
        assert outcome.trace.fault is None, outcome.trace.fault
        return time.perf_counter() - began, outcome


def reuse(outcome: Outcome) -> float:
    """Return the cached prefix tokens of the self-evaluations over those in full blocks."""
    expected = sum(
        num_full_block_tokens(len(PROMPT) + evaluation.num_tokens)
        for sample in outcome.samples
        for evaluation in sample.evaluations
    )
    return outcome.usage.cached_self_evaluation_tokens / expected


@asynccontextmanager
async def in_process(*, large: bool) -> AsyncIterator[Bench]:
    """Load the model twice in this process: our engine, and vLLM's own `LLM`."""
    os.environ.setdefault("OMP_NUM_THREADS", num_threads(large=large))
    with model_folder(large=large) as folder:
        engine = load_vllm_engine(str(folder))  # sets vLLM's environment for the next line too
        from vllm import LLM
        from vllm import SamplingParams as VllmParams

        llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            dtype="float32",
            block_size=32,
            enforce_eager=True,
            distributed_executor_backend="vllm.v1.executor.uniproc_executor.UniProcExecutor",
        )

    async def plain(num_samples: int, seed: int) -> None:
        params = VllmParams(
            n=num_samples,
            temperature=1.0,
            max_tokens=MAX_TOKENS,
            ignore_eos=True,
            detokenize=False,
            seed=seed,
        )
        llm.generate({"prompt_token_ids": list(PROMPT)}, params, use_tqdm=False)

    try:
        yield Bench(engine, plain)
    finally:
        await engine.aclose()


@asynccontextmanager
async def over_http(*, large: bool) -> AsyncIterator[Bench]:
    """Start a server, and connect to it: our engine, and a bare HTTP client."""
    with serve(large=large) as server:
        engine = await connect_server_engine(server.base_url)
        async with httpx.AsyncClient(timeout=600) as client:

            async def plain(num_samples: int, seed: int) -> None:
                body = {
                    "model": "reference",
                    "prompt": list(PROMPT),
                    "n": num_samples,
                    "temperature": 1.0,
                    "max_tokens": MAX_TOKENS,
                    "ignore_eos": True,
                    "seed": seed,
                    "return_token_ids": True,
                }
                answer = await client.post(server.base_url + "/completions", json=body)
                answer.raise_for_status()
                assert len(answer.json()["choices"]) == num_samples

            try:
                yield Bench(engine, plain)
            finally:
                await engine.aclose()


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    """Repeat, after one round to warm up, and return the medians of the ratios."""
    setting = over_http if arguments.http else in_process
    async with setting(large=arguments.large) as bench:
        await bench.repetition(arguments.repetitions)
        timings = []
        for seed in range(arguments.repetitions):
            timings.append(await bench.repetition(seed))
            print(timings[-1], flush=True)
    return [
        median_figure(
            "overhead_nothing_pruned",
            [t.nothing_pruned_s / t.plain_s for t in timings],
            at_most=MAX_OVERHEAD,
        ),
        median_figure(
            "ratio_pruned_8_4", [t.pruned_s / t.plain_s for t in timings], at_most=MAX_PRUNED
        ),
        median_figure("floor_pruned_8_4", [t.floor for t in timings]),
        median_figure(
            "first_sample_over_one_request",
            [t.one_sample_s / t.one_request_s for t in timings],
            at_most=MAX_FIRST_SAMPLE,
        ),
        median_figure("reuse_of_full_blocks", [t.reuse for t in timings], at_least=1.0),
        median_figure(
            "plain_tokens_per_s", [NUM_SAMPLES * MAX_TOKENS / t.plain_s for t in timings]
        ),
    ]


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    parser = make_parser(__doc__ or "", repetitions=5)
    parser.add_argument("--http", action="store_true", help="a server, not vLLM in this process")
    parser.add_argument("--large", action="store_true", help="100 million random weights instead")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments))
    facts = {"engine": "server" if arguments.http else "in-process", "large": arguments.large}
    return report(figures, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
