"""What fine-tuning costs over a plain training loop, and that rollouts and rewards stream.

Fails where fine-tuning makes less than 0.95 of a plain loop's tokens a second on the same model and
batches, or where ten times the rows take more than 64 MiB more memory.

    python benchmarks/training.py [--rows 200000] [--steps 60]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfeval_backend.chat import Message
from selfeval_backend.engine.base import Capabilities, Chunk, LabelLogprobs, SamplingParams
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.samples.filling import Job, fill
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.recorder import Draw, Recorder, RecordingPlan
from selfeval_backend.samples.records import RecordingInfo
from selfeval_backend.scorers import FunctionScorer
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.branches import BranchBatch, LabelledCut, Row, run
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.rewards import score_files
from selfeval_backend.training.trainer import Examples, Item, Phase, RowCollator, train_phase

LEAST_SHARE = 0.95
MOST_GROWTH_MIB = 64
SAMPLES = 8


class Made(Examples):
    """Responses of one length: what is measured is the loop."""

    def __init__(self, n: int) -> None:
        cuts = tuple(LabelledCut(num_tokens=n, prob_win_or_tie=0.5) for n in (20, 40, 60, 90))
        self._row = Row(prompt_ids=tuple(range(30)), response_ids=tuple(range(90)), cuts=cuts)
        self._n = n

    @property
    def lengths(self) -> Sequence[int]:
        """Return the tokens of each."""
        return [120] * self._n

    def __getitem__(self, place: int) -> Item:
        """Return the one response."""
        return (self._row,)


def new_model() -> LlamaForCausalLM:
    """Return a model of the reference model's size."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            pad_token_id=0,
        )
    )


COLLATOR = RowCollator(question_ids=(5, 6, 7, 8, 9), pad_id=0, branches=True)
BATCH = 16


def plain_loop(steps: int) -> float:
    """Return seconds a step of a loop as one writes it by hand."""
    model: Any = new_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = torch.utils.data.DataLoader(Made(steps * BATCH), BATCH, collate_fn=COLLATOR)
    began = time.perf_counter()
    for tensors in data:
        batch = BranchBatch.of(tensors)
        logits = run(model, batch, batch.label_positions[0])  # [B, K, V]
        logprobs = logits.float().log_softmax(-1)[..., [3, 4]]
        loss = -(batch.targets * logprobs[..., 0] + (1 - batch.targets) * logprobs[..., 1]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - began) / steps


def finetune(steps: int) -> float:
    """Return seconds a step of `train_phase`, logging and scheduling included."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        phase = Phase(
            folder=Path(folder),
            name="bench",
            batch_items=BATCH,
            lr=1e-4,
            weights=LossWeights(label=1.0),
            label_ids=(3, 4),
            steps=steps,
            save_steps=10 * steps,
        )
        train_phase(
            new_model(),
            Made(steps * BATCH),
            phase,
            COLLATOR,
            tell=lambda *_: times.append(time.perf_counter()),
        )
    return (times[-1] - times[0]) / (len(times) - 1)


def measure_throughput(steps: int, rounds: int = 5) -> float:
    """Print and return the share of a plain loop's speed; medians over alternating rounds."""
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(plain_loop(steps))
        ours.append(finetune(steps))
    share = statistics.median(plain) / statistics.median(ours)
    print(
        f"fine-tuning: {statistics.median(ours) * 1000:.1f} ms a step, plain loop "
        f"{statistics.median(plain) * 1000:.1f} ms: share {share:.3f} (at least {LEAST_SHARE}); "
        f"{rounds} rounds of {steps} steps, {torch.get_num_threads()} threads"
    )
    return share


class Echo:
    """An engine that answers with its seed, and remembers nothing."""

    capabilities = Capabilities(
        name="echo",
        context_length=512,
        evaluates_mid_generation=False,
        pauses_at_checkpoints=False,
    )

    def __init__(self, chat: ScriptedChat) -> None:
        self._chat = chat

    async def stream(
        self, prompt_ids: tuple[int, ...], params: SamplingParams
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the whole answer."""
        token_ids = self._chat.response(str(params.seed), 0.5).token_ids
        count = len(token_ids)
        yield Chunk(
            token_ids=token_ids,
            num_generated_tokens=count,
            logprobs=(-1.0,) * count,
            finish_reason="stop",
        )

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Refuse: nobody asks."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Have nothing to close."""


def echoed(num_prompts: int) -> Job:
    """Return prompts that count, and an echo that answers them."""
    chat, config = ScriptedChat(), SelfEvalConfig()
    plan = RecordingPlan(
        num_samples=SAMPLES, annealed=False, evaluate=False, max_tokens=24, untrained_question=False
    )
    info = RecordingInfo(
        task="echo",
        model="echo",
        engine="echo",
        seed=0,
        num_samples=SAMPLES,
        temperature=1.0,
        annealed=False,
        checkpoints=(),
        max_tokens=24,
        num_question_tokens=1,
        selfeval=config,
    )

    def draws() -> Iterator[Draw]:
        for n in range(num_prompts):
            message = Message(role="user", content=f"{n}?")
            prompt = Prompt(prompt_id=f"{n:016x}", split="train", messages=(message,))
            yield Draw(prompt=prompt, seed=n, plan=plan)

    def open_recorder() -> Recorder:
        return Recorder(engine=Echo(chat), chat=chat, evaluator=SelfEvaluator(config, chat))

    return Job(info=info, draws=draws, open_recorder=open_recorder, prompts_per_file=256)


def measure_memory(num_rows: int) -> float:
    """Print and return by how much the peak grows from a tenth of the rows to all of them."""
    peaks, began = [], time.perf_counter()
    for count in (num_rows // SAMPLES // 10, num_rows // SAMPLES):
        with tempfile.TemporaryDirectory() as folder:
            samples, rewards = Path(folder, "samples"), Path(folder, "rewards")
            fill(echoed(count), samples, name="rollouts", progress=lambda *_: None)
            score_files(
                samples,
                rewards,
                load=lambda: FunctionScorer(lambda _p, response, _a: float(response[-1])),
                max_error_share=0.0,
                name="rewards",
                progress=lambda *_: None,
            )
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(
        f"rollouts and rewards: peak {peaks[0]:.0f} MiB with {num_rows // 10:,} rows, "
        f"{peaks[1]:.0f} MiB with {num_rows:,} (at most {MOST_GROWTH_MIB} more); "
        f"{time.perf_counter() - began:.0f} s"
    )
    return peaks[1] - peaks[0]


def main() -> int:
    """Run both; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    grown = measure_memory(arguments.rows)
    share = measure_throughput(arguments.steps)
    return int(share < LEAST_SHARE or grown > MOST_GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
