"""What 64 questions at once cost on one vLLM server, and what they cost the client.

In turn and repeatedly, 64 prompts with 16 samples each, to their full length: one plain request of
n=16 for each prompt; this project's loop with a self-evaluation of each sample at two checkpoints
and at the end and nothing pruned; and the same, pruned to 8 and to 4. Generated tokens per second
are compared within each repetition. The wait of a question is from the start of all of them to its
answer. CPU time and peak memory are this process's own. The server is two more, its front end and
its engine; how much of a core each of the three uses is reported too. At the end some questions are
asked once more under cProfile. Exit status 1 if a limit is exceeded.

    python benchmarks/vllm_concurrency.py [--large] [--json] [--plot PNG]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import psutil
from common import NUM_SAMPLES, Figure, make_parser, median_figure, random_prompt, report, serve

from selfeval_backend.controller import run
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.model import SelfEvaluatingModel, Server, load_model
from selfeval_backend.settings import Settings

MIN_THROUGHPUT = 0.90
"""Generated tokens per second with self-evaluations over those without."""
MAX_LONGEST_WAIT = 2.0
"""The longest wait of any question over the median."""

Ask = Callable[[int], Awaitable[int]]
"""Ask the question of a seed; returns its generated tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All questions, answered once."""

    seconds: float
    waits_s: list[float]
    generated_tokens: int
    cpu_s: float
    """Of this process."""
    front_end_cpu_s: float
    """Of the server's process that answers HTTP."""
    engine_cpu_s: float
    """Of the server's other processes."""
    peak_mib: float
    """The process's peak until now."""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens of all samples."""
        return self.generated_tokens / self.seconds

    @property
    def cpu_s_per_1000_tokens(self) -> float:
        """What a thousand generated tokens cost this process."""
        return 1000 * self.cpu_s / self.generated_tokens

    @property
    def longest_over_median(self) -> float:
        """How much longer than half of them the last one waited."""
        return max(self.waits_s) / statistics.median(self.waits_s)


class ServerCpu:
    """The CPU time of a server, read from outside."""

    def __init__(self, pid: int) -> None:
        self._front_end = psutil.Process(pid)

    def read(self) -> tuple[float, float]:
        """Return the CPU seconds until now: of the front end, and of all that it started."""
        children = self._front_end.children(recursive=True)
        return _cpu_s(self._front_end), sum(map(_cpu_s, children))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def play(ask: Ask, seeds: range, server: ServerCpu) -> Round:
    """Ask all questions at once."""
    waits_s: list[float] = []

    async def one(seed: int) -> int:
        generated_tokens = await ask(seed)
        waits_s.append(time.perf_counter() - began)
        return generated_tokens

    front_end_began, engine_began = server.read()
    cpu_began, began = time.process_time(), time.perf_counter()
    generated_tokens = sum(await asyncio.gather(*map(one, seeds)))
    seconds = time.perf_counter() - began
    front_end_ended, engine_ended = server.read()
    return Round(
        seconds=seconds,
        front_end_cpu_s=front_end_ended - front_end_began,
        engine_cpu_s=engine_ended - engine_began,
        waits_s=waits_s,
        generated_tokens=generated_tokens,
        cpu_s=time.process_time() - cpu_began,
        peak_mib=peak_mib(),
    )


def peak_mib() -> float:
    """Return this process's peak memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Contenders:
    """The same questions, asked in three ways."""

    def __init__(
        self, model: SelfEvaluatingModel, client: httpx.AsyncClient, url: str, max_tokens: int
    ) -> None:
        self._model = model
        self._client = client
        self._url = url
        self._max_tokens = max_tokens
        self._checkpoints = (max_tokens // 4, max_tokens // 2)

    async def plain(self, seed: int) -> int:
        """Send one request for all samples."""
        body = {
            "model": "reference",
            "prompt": list(random_prompt(seed)),
            "n": NUM_SAMPLES,
            "temperature": 1.0,
            "max_tokens": self._max_tokens,
            "ignore_eos": True,
            "seed": seed,
            "return_token_ids": True,
        }
        answer = await self._client.post(self._url, json=body)
        answer.raise_for_status()
        return sum(len(choice["token_ids"]) for choice in answer.json()["choices"])

    async def nothing_pruned(self, seed: int) -> int:
        """Evaluate every sample at both checkpoints and at the end."""
        return await self._ours(seed, keep_fraction=1.0)

    async def pruned(self, seed: int) -> int:
        """Stop half of the samples at each checkpoint."""
        return await self._ours(seed, keep_fraction=0.5)

    async def _ours(self, seed: int, *, keep_fraction: float) -> int:
        settings = Settings(
            max_samples=NUM_SAMPLES,
            adaptive=False,
            prune_at=self._checkpoints,
            keep_fraction=keep_fraction,
        )
        outcome = await run(
            random_prompt(seed),
            engine=self._model.engine,
            evaluator=self._model.evaluator,
            policy=settings.policy(),
            limits=settings.limits(),
            sampling=SamplingParams(
                temperature=1.0,
                max_tokens=self._max_tokens,
                seed=seed,
                stop_token_ids=frozenset(),
            ),
        )
        assert outcome.trace.fault is None, outcome.trace.fault
        return outcome.usage.generated_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """One round of each contender."""

    nothing_pruned: Round
    plain: Round
    pruned: Round


async def measure(arguments: argparse.Namespace, base_url: str, server: ServerCpu) -> list[Figure]:
    """Repeat, after one round to warm up, and return the medians."""
    started_mib = peak_mib()
    model = await asyncio.to_thread(load_model, "reference", server=Server(base_url=base_url))
    loaded_mib = peak_mib()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        url = base_url + "/completions"
        contenders = Contenders(model, client, url, arguments.max_tokens)
        for ask in (contenders.plain, contenders.nothing_pruned):
            await play(ask, range(2), server)
        repetitions = []
        for number in range(1, arguments.repetitions + 1):
            # Prompts of their own, so that no contender reads what another one computed.
            seeds = [
                range(first, first + arguments.questions)
                for first in range(number * 100_000, number * 100_000 + 3_000, 1_000)
            ]
            # Ours first: no plain round has raised the peak that the first one sees.
            repetition = Repetition(
                nothing_pruned=await play(contenders.nothing_pruned, seeds[1], server),
                plain=await play(contenders.plain, seeds[0], server),
                pruned=await play(contenders.pruned, seeds[2], server),
            )
            print(_line(repetition), flush=True)
            repetitions.append(repetition)
        if arguments.profile:
            await profile(contenders.nothing_pruned, range(arguments.profile), server)
    await model.aclose()
    peak = repetitions[0].nothing_pruned.peak_mib
    print(
        f"peak memory: {started_mib:.0f} MiB with the imports, {loaded_mib:.0f} connected, "
        f"{peak:.0f} with {arguments.questions} x {NUM_SAMPLES} samples"
    )
    return figures(repetitions, peak)


def figures(repetitions: list[Repetition], peak: float) -> list[Figure]:
    """Return the medians over the repetitions."""
    return [
        median_figure(
            "throughput_over_plain",
            [r.nothing_pruned.tokens_per_s / r.plain.tokens_per_s for r in repetitions],
            at_least=MIN_THROUGHPUT,
        ),
        median_figure(
            "longest_wait_over_median",
            [r.nothing_pruned.longest_over_median for r in repetitions],
            at_most=MAX_LONGEST_WAIT,
        ),
        median_figure(
            "plain_longest_wait_over_median", [r.plain.longest_over_median for r in repetitions]
        ),
        median_figure(
            "pruned_8_4_time_over_plain",
            [r.pruned.seconds / r.plain.seconds for r in repetitions],
        ),
        median_figure(
            "pruned_8_4_tokens_over_plain",
            [r.pruned.generated_tokens / r.plain.generated_tokens for r in repetitions],
        ),
        median_figure("plain_tokens_per_s", [r.plain.tokens_per_s for r in repetitions]),
        median_figure("tokens_per_s", [r.nothing_pruned.tokens_per_s for r in repetitions]),
        median_figure(
            "client_cpu_s_per_1000_tokens",
            [r.nothing_pruned.cpu_s_per_1000_tokens for r in repetitions],
        ),
        median_figure(
            "plain_client_cpu_s_per_1000_tokens",
            [r.plain.cpu_s_per_1000_tokens for r in repetitions],
        ),
        *_core_shares("", [r.nothing_pruned for r in repetitions]),
        *_core_shares("plain_", [r.plain for r in repetitions]),
        median_figure("client_peak_mib", [peak]),
    ]


def _core_shares(prefix: str, rounds: list[Round]) -> list[Figure]:
    """Return how much of a core each of the three processes used."""
    return [
        median_figure(prefix + "client_cores", [r.cpu_s / r.seconds for r in rounds]),
        median_figure(prefix + "front_end_cores", [r.front_end_cpu_s / r.seconds for r in rounds]),
        median_figure(prefix + "engine_cores", [r.engine_cpu_s / r.seconds for r in rounds]),
    ]


def _line(repetition: Repetition) -> str:
    plain, kept, pruned = repetition.plain, repetition.nothing_pruned, repetition.pruned
    return (
        f"plain {plain.seconds:.1f} s; nothing pruned {kept.seconds:.1f} s, of which "
        f"{kept.cpu_s:.1f} s CPU here; pruned {pruned.seconds:.1f} s, {pruned.generated_tokens} "
        f"of {plain.generated_tokens} tokens"
    )


async def profile(ask: Ask, seeds: range, server: ServerCpu) -> None:
    """Ask some questions under cProfile, and print where the time of this process goes."""
    profiler = cProfile.Profile()
    profiler.enable()
    asked = await play(ask, seeds, server)
    profiler.disable()
    print(f"profile of {len(seeds)} questions, {asked.generated_tokens} tokens (cProfile slows):")
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(25)


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    parser = make_parser(__doc__ or "", repetitions=3)
    parser.add_argument("--large", action="store_true", help="100 million random weights instead")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128, help="of one sample")
    parser.add_argument(
        "--profile", type=int, default=8, help="questions asked under cProfile; 0: none"
    )
    parser.add_argument(
        "--max-num-seqs", type=int, help="of the server; default: all samples and evaluations"
    )
    arguments = parser.parse_args()
    max_num_seqs = arguments.max_num_seqs or 2 * arguments.questions * NUM_SAMPLES
    # vLLM 0.32 on a CPU dies of a seeded request whose prompt is computed in chunks ("CPU Generator
    # does not use offset"), as it is where many prompts come at once.
    with serve(
        "--max-num-seqs",
        str(max_num_seqs),
        "--no-enable-chunked-prefill",
        large=arguments.large,
    ) as server:
        cpu = ServerCpu(server.process.pid)
        found = asyncio.run(measure(arguments, server.base_url, cpu))
    facts = {
        "large": arguments.large,
        "questions": arguments.questions,
        "samples": NUM_SAMPLES,
        "max_tokens": arguments.max_tokens,
        "max_num_seqs": max_num_seqs,
    }
    return report(found, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
