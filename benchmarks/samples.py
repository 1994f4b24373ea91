r"""Draw the samples of a model on a task, with all that signals of right and wrong need.

Every prompt gets one greedy sample and some at the temperature, on the transformers engine in
float32. Of every generated token the raw log-probability is kept, the entropy and the
self-certainty of the distribution that it was drawn from; of every whole response the answers to
questions that the model was never trained on. One file a prompt, so that a run that was stopped
goes on where it was; `collect` makes one Parquet file of them.

    python -m benchmarks.samples draw MODEL RUN [--task NAME] [--prompts N] [--samples N]
    python -m benchmarks.samples collect RUN PARQUET [--task NAME]
    python -m benchmarks.samples table PARQUET

MODEL is a folder of model files, RUN one that is made. The three models of the study of signals
(`benchmarks.signals` reads what `collect` writes):

    python -m benchmarks.samples draw SMOLLM2 RUN --task instructions
    python -m benchmarks.samples draw selfeval_backend/reference/base RUN --task puzzles \
        --prompts 300 --temperature 1.0
    python -m benchmarks.samples draw QWEN RUN --task sums --prompts 150 --max-tokens 320

QWEN is a folder of Qwen2.5-Coder-0.5B-Instruct, from the hub or with dequantised Q4_K_M weights. On
two cores without AVX-512 its 1,350 samples take hours: run it in the background.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.sample_tasks import TASKS, Asked, SampleTask
from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.transformers import (
    TransformersEngine,
    load_transformers_engine,
    worker,
)
from selfeval_backend.engine.transformers.sampler import Draws, Sampler
from selfeval_backend.evaluation.metrics import standard_error
from selfeval_backend.files import read_json_lines, read_parquet, replacing, write_json_lines
from selfeval_backend.samples.records import UNTRAINED_QUESTION
from selfeval_backend.selfeval import PAPER_QUESTION

MAX_BATCH = 64
_PROMPTS_AT_ONCE = 10
"""A few more samples than the batch takes, so that it stays full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked after a response, and which answer speaks for it."""

    text: str
    good: str
    bad: str


QUESTIONS: Mapping[str, Question] = {
    "paper": Question(text=PAPER_QUESTION, good="No.", bad="Yes."),
    "better": Question(
        text='Could a second attempt be better than this one? ("Yes." or "No.")',
        good="No.",
        bad="Yes.",
    ),
    "complete": Question(
        text='Does your answer do everything that was asked? ("Yes." or "No.")',
        good="Yes.",
        bad="No.",
    ),
    "p_true": Question(text=UNTRAINED_QUESTION, good="Yes.", bad="No."),
}
"""The self-evaluation's question in three wordings, and P(True)."""

_TOKEN_SIGNALS = ("logprobs", "entropies", "self_certainties")

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("part", pa.string()),
        ("kind", pa.string()),
        ("form", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),  # what a reward is made with
        ("prompt_token_ids", pa.list_(pa.uint32())),
        ("sample", pa.int8()),  # 0 is the greedy one
        ("temperature", pa.float32()),
        ("seed", pa.int64()),
        ("response", pa.string()),
        ("final_answer", pa.string()),  # the same text for the same one; null: nothing to compare
        ("token_ids", pa.list_(pa.uint32())),  # without the end token
        ("finish_reason", pa.string()),
        # One a generated token, the end token's among them; natural, of the raw distribution.
        # Self-certainty is the mean over the vocabulary of -log(V p).
        *((name, pa.list_(pa.float16())) for name in _TOKEN_SIGNALS),
        ("sum_logprob", pa.float32()),
        *(
            (f"logprob_{side}_{name}", pa.float32())
            for name in QUESTIONS
            for side in ("good", "bad")
        ),
        ("reward", pa.float32()),
        ("share_kept", pa.float32()),
    ]
)


class MeasuringSampler(Sampler):
    """Also keeps what every token's distribution was like."""

    measured: ClassVar[defaultdict[int, list[tuple[float, float]]]] = defaultdict(list)
    """(entropy, self-certainty) of each token so far, by the sample's seed; natural units."""

    def __init__(
        self,
        params: Sequence[SamplingParams],
        counters: Sequence[int],
        histories: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        super().__init__(params, counters, histories, device)
        self._seeds = [p.seed for p in params]

    def draw(self, logits: torch.Tensor, allowed: torch.Tensor | None = None) -> Draws:
        """Draw one token for each row."""
        logits = logits.float()  # [B, V]
        normalizer = logits.logsumexp(-1)
        entropy = normalizer - (logits.softmax(-1) * logits).sum(-1)
        certainty = normalizer - logits.mean(-1) - math.log(logits.shape[-1])
        pairs = zip(entropy.tolist(), certainty.tolist(), strict=True)
        for seed, pair in zip(self._seeds, pairs, strict=True):
            self.measured[seed].append(pair)
        return super().draw(logits, allowed)


class Recorder:
    """Draws and asks.

    Args:
        engine: Of the model, with `MeasuringSampler` in the place of its sampler.
        chat: Of the same model.
        arguments: Of the command `draw`.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        chat: ChatTemplate,
        arguments: argparse.Namespace,
    ) -> None:
        self._engine, self._chat = engine, chat
        self._samples: int = arguments.samples
        self._temperature: float = arguments.temperature
        self._max_tokens: int = arguments.max_tokens
        self._seed: int = arguments.seed
        self._questions = {
            name: (
                chat.follow_up_ids(question.text),
                (chat.first_token_id(question.good), chat.first_token_id(question.bad)),
            )
            for name, question in QUESTIONS.items()
        }

    async def rows(self, place: int, asked: Asked) -> list[dict[str, object]]:
        """Return one row for each sample of a prompt, the greedy one first."""
        prompt_ids = self._chat.prompt_ids([Message(role="user", content=asked.prompt)])
        samples = range(self._samples + 1)
        seed = derive_seed(self._seed, place)
        drawn = await asyncio.gather(*(self._sample(prompt_ids, k, seed=seed) for k in samples))
        shared = {
            "prompt_id": f"{asked.part}/{asked.kind}/test-{self._seed}-{place}",
            **asdict(asked),
            "prompt_token_ids": prompt_ids,
        }
        return [{**shared, **row} for row in drawn]

    async def _sample(
        self, prompt_ids: tuple[int, ...], sample: int, *, seed: int
    ) -> dict[str, object]:
        seed = derive_seed(seed, sample)
        temperature = 0.0 if sample == 0 else self._temperature
        params = SamplingParams(
            temperature=temperature,
            max_tokens=self._max_tokens,
            seed=seed,
            stop_token_ids=self._chat.end_token_ids,
            logprobs=True,
        )
        async with contextlib.aclosing(self._engine.stream(prompt_ids, params)) as stream:
            chunks = [chunk async for chunk in stream]
            token_ids = tuple(i for chunk in chunks for i in chunk.token_ids)
            # The stream is still open, so that the questions are asked on its cache.
            labels = await self._ask(prompt_ids + token_ids)
        logprobs = [x for chunk in chunks for x in chunk.logprobs or ()]
        entropies, certainties = zip(*MeasuringSampler.measured.pop(seed), strict=True)
        return {
            "sample": sample,
            "temperature": temperature,
            "seed": seed,
            "response": self._chat.decode(token_ids),
            "token_ids": token_ids,
            "finish_reason": chunks[-1].finish_reason,
            "logprobs": logprobs,
            "entropies": entropies,
            "self_certainties": certainties,
            "sum_logprob": sum(logprobs),
            **labels,
        }

    async def _ask(self, token_ids: tuple[int, ...]) -> dict[str, float]:
        answers = await asyncio.gather(
            *(
                self._engine.label_logprobs(token_ids + question_ids, label_ids)
                for question_ids, label_ids in self._questions.values()
            )
        )
        found = {}
        for name, answer in zip(self._questions, answers, strict=True):
            found[f"logprob_good_{name}"], found[f"logprob_bad_{name}"] = answer.logprobs
        return found


async def draw(arguments: argparse.Namespace) -> None:
    """Draw every prompt that the run's folder does not hold yet."""
    run: Path = arguments.run
    asked = islice(TASKS[arguments.task].prompts(arguments.seed), arguments.prompts)
    missing = [each for each in enumerate(asked) if not _path(run, each[0]).exists()]
    engine = load_transformers_engine(arguments.model, dtype="float32", max_batch=MAX_BATCH)
    recorder = Recorder(engine, ChatTemplate.load(arguments.model), arguments)
    room, began, done = asyncio.Semaphore(_PROMPTS_AT_ONCE), time.monotonic(), 0

    async def keep(place: int, each: Asked) -> None:
        nonlocal done
        async with room:
            rows = await recorder.rows(place, each)
        write_json_lines(_path(run, place), rows)
        done += 1
        minutes = (time.monotonic() - began) / 60
        print(f"{done} of {len(missing)} prompts after {minutes:.1f} minutes", flush=True)

    async with asyncio.TaskGroup() as group:
        for place, each in missing:
            group.create_task(keep(place, each))
    await engine.aclose()


def _path(run: Path, place: int) -> Path:
    return run / f"prompt-{place:05}.jsonl"


def collect(run: Path, path: Path, task: SampleTask) -> None:
    """Write all that a run has drawn so far into one file, with rewards as the checks are now."""
    rows = [
        _collected(row, task)
        for drawn in sorted(run.glob("prompt-*.jsonl"))
        for _, row in read_json_lines(drawn)
    ]
    with replacing(path) as partial:
        written = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(written, partial, compression="zstd", compression_level=19)
    print(f"{len(rows)} samples, {path.stat().st_size / 1e6:.1f} MB: {path}")


def _collected(row: Mapping[str, Any], task: SampleTask) -> dict[str, Any]:
    # Arrow does not narrow numbers itself.
    narrow = {name: list(np.asarray(row[name], np.float16)) for name in _TOKEN_SIGNALS}
    asked = (row["prompt"], row["response"], row["answer"])
    return {
        **row,
        **narrow,
        "final_answer": task.final_answer(row["response"], row["answer"]),
        "reward": task.score(*asked),
        "share_kept": task.score_share(*asked),
    }


def table(path: Path) -> Iterator[str]:
    """Yield the lines of a table: what samples are worth, by part, form and kind."""
    groups: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in _prompts(path):
        for name in ("all", prompt.part, prompt.form, f"{prompt.part}/{prompt.kind}"):
            groups[name].append(prompt)
    yield "| prompts | n | one sample | greedy | any | mixed | tokens | over 128 |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in sorted(groups, key=lambda name: ("/" in name, name)):
        yield _line(name, groups[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What came of one prompt."""

    part: str
    kind: str
    form: str
    greedy: float
    """Reward of the greedy sample."""
    rewards: list[float]
    """Of the others."""
    lengths: list[int]
    """Of the others, in generated tokens."""


def _prompts(path: Path) -> list[Prompt]:
    samples: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    columns = ["prompt_id", "part", "kind", "form", "sample", "reward", "logprobs"]
    for row in read_parquet(path, columns=columns):
        samples[row["prompt_id"]].append(row)
    return [_prompt(*sorted(rows, key=lambda row: row["sample"])) for rows in samples.values()]


def _prompt(greedy: Mapping[str, Any], *drawn: Mapping[str, Any]) -> Prompt:
    return Prompt(
        part=greedy["part"],
        kind=greedy["kind"],
        form=greedy["form"],
        greedy=greedy["reward"],
        rewards=[row["reward"] for row in drawn],
        lengths=[len(row["logprobs"]) for row in drawn],
    )


def _line(name: str, prompts: Sequence[Prompt]) -> str:
    lengths = [length for prompt in prompts for length in prompt.lengths]
    mixed = [0 < sum(prompt.rewards) < len(prompt.rewards) for prompt in prompts]
    cells = [
        _with_error([statistics.fmean(prompt.rewards) for prompt in prompts]),
        _with_error([prompt.greedy for prompt in prompts]),
        _with_error([max(prompt.rewards) for prompt in prompts]),
        f"{statistics.fmean(mixed):.2f}",
        f"{statistics.fmean(lengths):.0f}",
        f"{statistics.fmean(length > 128 for length in lengths):.2f}",
    ]
    return f"| {name} | {len(prompts)} | {' | '.join(cells)} |"


def _with_error(values: Sequence[float]) -> str:
    error = standard_error(values)
    return f"{statistics.fmean(values):.2f}" + ("" if error is None else f" ± {error:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands; None: what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("model")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("--prompts", type=int, default=324)
    drawing.add_argument("--samples", type=int, default=8)
    drawing.add_argument("--temperature", type=float, default=0.8)
    drawing.add_argument("--max-tokens", type=int, default=256)
    drawing.add_argument("--seed", type=int, default=0)
    collecting = commands.add_parser("collect")
    collecting.add_argument("run", type=Path)
    collecting.add_argument("parquet", type=Path)
    for command in (drawing, collecting):
        command.add_argument("--task", choices=TASKS, default="instructions")
    commands.add_parser("table").add_argument("parquet", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "draw":
        chosen.run.mkdir(parents=True, exist_ok=True)
        with patch.object(worker, "Sampler", MeasuringSampler):
            asyncio.run(draw(chosen))
    elif chosen.command == "collect":
        collect(chosen.run, chosen.parquet, TASKS[chosen.task])
    else:
        print("\n".join(table(chosen.parquet)))


if __name__ == "__main__":
    main()
