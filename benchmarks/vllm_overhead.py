"""What adaptive sampling costs on vLLM in this process, as ratios of times within one run.

In turn and repeatedly, 16 samples of one prompt to their full length: vLLM's own `LLM.generate` of
16; the same number of samples by this project's loop, with a self-evaluation of each at two
checkpoints and at the end and nothing pruned; and the same, pruned to 8 and to 4. Then one request
of vLLM's own against a question that stops after one sample. Medians of the ratios of each
repetition, because a machine's speed drifts over a run. Exit status 1 if a limit is exceeded.

    python benchmarks/vllm_overhead.py [--model PATH] [--large] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.checkpoints import REFERENCE_FOLDER
from selfeval_backend.controller import run
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.vllm import VllmEngine, load_vllm_engine
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings

MAX_OVERHEAD = 1.10
MAX_PRUNED = 0.65
MAX_FIRST_SAMPLE = 1.15
NUM_SAMPLES = 16
CHECKPOINTS = (64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one repetition."""

    plain_s: float
    nothing_pruned_s: float
    pruned_s: float
    one_request_s: float
    one_sample_s: float


class Bench:
    """vLLM twice in this process: its own `LLM`, and our engine."""

    def __init__(self, folder: Path, prompt: tuple[int, ...], max_tokens: int) -> None:
        from vllm import LLM

        self.engine: VllmEngine = load_vllm_engine(str(folder))
        self.llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            dtype="float32",
            block_size=32,
            enforce_eager=True,
            distributed_executor_backend="vllm.v1.executor.uniproc_executor.UniProcExecutor",
        )
        self.evaluator = SelfEvaluator(None, ChatTemplate.load(REFERENCE_FOLDER))
        self.prompt = prompt
        self.max_tokens = max_tokens

    def plain(self, num_samples: int, seed: int) -> float:
        """Return the seconds of vLLM's own generation."""
        from vllm import SamplingParams as VllmParams

        params = VllmParams(
            n=num_samples,
            temperature=1.0,
            max_tokens=self.max_tokens,
            ignore_eos=True,
            detokenize=False,
            seed=seed,
        )
        began = time.perf_counter()
        self.llm.generate({"prompt_token_ids": list(self.prompt)}, params, use_tqdm=False)
        return time.perf_counter() - began

    async def ours(self, settings: Settings, seed: int) -> float:
        """Return the seconds of a whole call."""
        began = time.perf_counter()
        outcome = await run(
            self.prompt,
            engine=self.engine,
            evaluator=self.evaluator,
            policy=settings.policy(),
            limits=settings.limits(),
            sampling=SamplingParams(
                temperature=1.0, max_tokens=self.max_tokens, seed=seed, stop_token_ids=frozenset()
            ),
        )
        assert outcome.trace.fault is None, outcome.trace.fault
        return time.perf_counter() - began

    async def repetition(self, seed: int) -> Timing:
        """Time every contender once."""
        sixteen = {"max_samples": NUM_SAMPLES, "adaptive": False, "prune_at": CHECKPOINTS}
        keep, prune = (
            Settings(**sixteen, keep_fraction=fraction)  # type: ignore[arg-type]  # mixed values
            for fraction in ((1.0, 1.0), (0.5, 0.5))
        )
        first = Settings(max_samples=NUM_SAMPLES, threshold=0.0, annealing="constant")
        return Timing(
            plain_s=self.plain(NUM_SAMPLES, seed),
            nothing_pruned_s=await self.ours(keep, seed),
            pruned_s=await self.ours(prune, seed),
            one_request_s=self.plain(1, seed),
            one_sample_s=await self.ours(first, seed),
        )


def large_model(folder: Path) -> Path:
    """Write a Llama of about 100 million random parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


async def measure(bench: Bench, repetitions: int) -> dict[str, float]:
    """Repeat, after one round to warm up, and return the medians of the ratios."""
    timings = [await bench.repetition(seed) for seed in range(repetitions + 1)][1:]
    await bench.engine.aclose()
    return {
        "overhead_nothing_pruned": statistics.median(
            t.nothing_pruned_s / t.plain_s for t in timings
        ),
        "ratio_pruned_8_4": statistics.median(t.pruned_s / t.plain_s for t in timings),
        "first_sample_over_one_request": statistics.median(
            t.one_sample_s / t.one_request_s for t in timings
        ),
        "plain_tokens_per_s": statistics.median(
            NUM_SAMPLES * bench.max_tokens / t.plain_s for t in timings
        ),
        "repetitions": repetitions,
    }


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=REFERENCE_FOLDER)
    parser.add_argument("--large", action="store_true", help="100 million random weights instead")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1" if not arguments.large else "2")
    with tempfile.TemporaryDirectory() as temporary:
        folder = large_model(Path(temporary)) if arguments.large else arguments.model
        bench = Bench(folder, tuple(range(20, 68)), arguments.max_tokens)
        ratios = asyncio.run(measure(bench, arguments.repetitions))
    for name, value in ratios.items():
        print(f"{name:32s} {value:.3f}")
    if arguments.json:
        print(json.dumps(ratios))
    kept = (
        ratios["overhead_nothing_pruned"] <= MAX_OVERHEAD
        and ratios["ratio_pruned_8_4"] <= MAX_PRUNED
        and ratios["first_sample_over_one_request"] <= MAX_FIRST_SAMPLE
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
