"""What self-evaluations and the engine itself cost, as ratios of times within one run.

For each batch size, in turn and repeatedly: plain generation by the engine; the same samples with
a self-evaluation of each at two checkpoints and at the end, nothing pruned; and transformers' own
`generate` of the same batch at the same length. Medians of the ratios of each repetition, because
a machine's speed drifts over a run. Exit status 1 if a limit is exceeded.

    python benchmarks/transformers_engine.py [--model PATH] [--json] [--plot PNG]
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import torch
from common import Figure, make_parser, median_figure, report
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.transformers import TransformersEngine

MAX_EVALUATION_RATIO = 1.15
"""Samples with self-evaluations over plain generation by the same engine."""
MAX_GENERATE_RATIO = 1.10
"""Plain generation by the engine over `model.generate(do_sample=True)`."""
QUESTION = (3, 1, 4, 1, 5)
LABELS = (2, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What every contender does."""

    batch: int
    prompt: tuple[int, ...]
    max_tokens: int

    @property
    def checkpoints(self) -> tuple[int, int]:
        """Where samples are evaluated before the end."""
        return self.max_tokens // 8, self.max_tokens // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one repetition."""

    plain_s: float
    evaluated_s: float
    end_evaluation_s: float
    generate_s: float


def tiny_model() -> PreTrainedModel:
    """Return a small Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config)


def load_model(path: str) -> PreTrainedModel:
    """Load a model folder, in float32 on the CPU, as the engine's own loader does."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = None  # nothing stops a sample before its length
    return model


def params(load: Load, seed: int, checkpoints: tuple[int, ...]) -> SamplingParams:
    """Return how one sample is drawn: to the full length, since nothing stops it."""
    return SamplingParams(
        temperature=1.0,
        max_tokens=load.max_tokens,
        seed=seed,
        stop_token_ids=frozenset(),
        checkpoints=checkpoints,
    )


async def plain(engine: TransformersEngine, load: Load) -> None:
    """Generate the samples, and nothing else."""

    async def one(seed: int) -> None:
        async for _ in engine.stream(load.prompt, params(load, seed, ())):
            pass

    await asyncio.gather(*map(one, range(load.batch)))


async def evaluated(engine: TransformersEngine, load: Load) -> float:
    """Generate and evaluate the samples; return the seconds that the last evaluations took."""
    ends: list[float] = []

    async def one(seed: int) -> None:
        tokens = load.prompt
        async for chunk in engine.stream(load.prompt, params(load, seed, load.checkpoints)):
            tokens += chunk.token_ids
            num_generated = len(tokens) - len(load.prompt)
            if num_generated in load.checkpoints or chunk.finish_reason:
                begin = time.perf_counter()
                await engine.label_logprobs(tokens + QUESTION, LABELS)
                if chunk.finish_reason:
                    ends.append(time.perf_counter() - begin)

    await asyncio.gather(*map(one, range(load.batch)))
    return max(ends)  # all wait for the same forward pass


def generate(model: PreTrainedModel, load: Load) -> None:
    """Generate the samples with transformers' own loop."""
    prompts = torch.tensor([load.prompt] * load.batch, device=model.device)
    model.generate(  # type: ignore[operator]  # typed as a tensor or module
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        top_k=0,
        max_new_tokens=load.max_tokens,
        min_new_tokens=load.max_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )


async def timed(work: Callable[[], Awaitable[float | None]]) -> tuple[float, float]:
    """Return the seconds that the work took, and what it returned."""
    begin = time.perf_counter()
    result = await work()
    return time.perf_counter() - begin, result or 0.0


async def measure(model: PreTrainedModel, load: Load, repetitions: int) -> list[Figure]:
    """Run every contender in turn, after one round to warm up; return medians."""
    engine = TransformersEngine(model)
    timings = [await repetition(engine, model, load) for _ in range(repetitions + 1)][1:]
    await engine.aclose()
    return [
        median_figure(
            f"evaluated_over_plain_{load.batch}",
            [t.evaluated_s / t.plain_s for t in timings],
            at_most=MAX_EVALUATION_RATIO,
        ),
        median_figure(
            f"end_evaluation_over_plain_{load.batch}",
            [t.end_evaluation_s / t.plain_s for t in timings],
        ),
        median_figure(
            f"plain_over_generate_{load.batch}",
            [t.plain_s / t.generate_s for t in timings],
            at_most=MAX_GENERATE_RATIO,
        ),
        median_figure(
            f"plain_tokens_per_s_{load.batch}",
            [load.batch * load.max_tokens / t.plain_s for t in timings],
        ),
    ]


async def repetition(engine: TransformersEngine, model: PreTrainedModel, load: Load) -> Timing:
    """Time every contender once."""
    plain_s, _ = await timed(lambda: plain(engine, load))
    evaluated_s, end_evaluation_s = await timed(lambda: evaluated(engine, load))
    begin = time.perf_counter()
    generate(model, load)
    return Timing(
        plain_s=plain_s,
        evaluated_s=evaluated_s,
        end_evaluation_s=end_evaluation_s,
        generate_s=time.perf_counter() - begin,
    )


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    parser = make_parser(__doc__ or "", repetitions=7)
    parser.add_argument("--model", help="a model folder; default: a tiny one, random weights")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model) if arguments.model else tiny_model()
    prompt = tuple(range(10, 58))
    figures: list[Figure] = []
    for batch in arguments.batch:
        load = Load(batch=batch, prompt=prompt, max_tokens=arguments.max_tokens)
        figures += asyncio.run(measure(model, load, arguments.repetitions))
    facts = {"engine": "transformers", "max_tokens": arguments.max_tokens}
    return report(figures, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
