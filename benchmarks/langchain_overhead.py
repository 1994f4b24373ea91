"""What LangChain's adapter costs beside the controller, alone, at 64 calls at once, and to import.

Overhead: milliseconds that one call of `ChatAdaptive` takes longer than the same answer from the
bare model, over an engine that answers at once; the two take turns. At 64 at once: wall time of 64
calls of `ChatAdaptive` with the reference model in this process over that of 64 answers of the bare
model, same prompts and seeds, less one; the two take turns there too. They are held-out problems of
its task, answered as it ships, and easy ones, of some tens of tokens, at most four samples. Import:
seconds until `aic_integrations.langchain` is imported in a fresh interpreter, and the share of
langchain-core.

    python benchmarks/langchain_overhead.py [--engine vllm]
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from typing import Any, get_args

import torch
from adapters import CALLS_IN_TURN, NUM_TURNS, PROMPT, Call, overhead_ms
from common import Figure, make_parser, median_figure, report

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import Message
from selfeval_backend.model import EngineName, SelfEvaluatingModel, load_model
from selfeval_backend.reference.problems import generate_problems

NUM_AT_ONCE = 64
TURNS_AT_ONCE = 3
"""Of the adapter and the bare model, in one repetition."""
AS_IT_SHIPS: dict[str, Any] = {"seed": 0}
EASY: dict[str, Any] = {"max_samples": 4, "seed": 0}
LIMIT_MS = 3.0
LIMIT_AT_ONCE = 0.01
IMPORT_LIMIT_S = 1.0

IMPORT = """
import json, time
began = time.perf_counter()
import langchain_core.callbacks
import langchain_core.language_models.chat_models
import langchain_core.language_models.llms
import langchain_core.output_parsers
import langchain_core.utils.function_calling
core = time.perf_counter()
import aic_integrations.langchain
print(json.dumps([time.perf_counter() - began, core - began]))
"""


def adapter(model: SelfEvaluatingModel, settings: dict[str, Any], *, synchronous: bool) -> Call:
    """Return the call of a model's adapter."""
    llm = ChatAdaptive.from_model(model, **settings)

    async def call() -> None:
        await (asyncio.to_thread(llm.invoke, PROMPT) if synchronous else llm.ainvoke(PROMPT))

    return call


def task_prompts() -> list[str]:
    """Return held-out problems of the reference model's task."""
    return [problem.text for problem in islice(generate_problems("test", seed=0), NUM_AT_ONCE)]


def easy_prompts() -> list[str]:
    """Return single puzzles of three numbers: answers of some tens of tokens."""
    return [f"Use {n // 8 + 2}, 19 and {n % 8 + 3} to make 24." for n in range(NUM_AT_ONCE)]


async def share_at_once(
    model: SelfEvaluatingModel, prompts: list[str], asked: dict[str, Any]
) -> float:
    """Return the share by which 64 calls at once take longer through the adapter."""
    llm = ChatAdaptive.from_model(model, **asked)
    settings = model.settings(asked)

    async def bare() -> None:
        each = ([Message(role="user", content=prompt)] for prompt in prompts)
        await asyncio.gather(*(model.answer(messages, settings) for messages in each))

    async def adapted() -> None:
        await asyncio.gather(*(llm.ainvoke(prompt) for prompt in prompts))

    ratios = []
    for _ in range(TURNS_AT_ONCE):
        before = await seconds(bare)
        ratios.append(await seconds(adapted) / before)
    return statistics.median(ratios) - 1


async def seconds(call: Call) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


def import_seconds() -> tuple[float, float]:
    """Return the seconds of an import in a fresh interpreter, and those of langchain-core in it."""
    ran = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    whole, core = json.loads(ran.stdout)
    return whole, core


async def measure(repetitions: int, engine: EngineName) -> list[Figure]:
    """Return all figures; `engine` is that of the reference model."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    model = load_model("reference", engine=engine)
    await share_at_once(model, easy_prompts(), EASY)  # warms up
    for _ in range(repetitions):
        for name, sync in (("ainvoke", False), ("invoke", True)):
            call = partial(adapter, synchronous=sync)
            note(name, await overhead_ms(call, synchronous=sync))
        note("at_once", await share_at_once(model, task_prompts(), AS_IT_SHIPS))
        note("easy", await share_at_once(model, easy_prompts(), EASY))
        whole, core = await asyncio.to_thread(import_seconds)
        note("import", whole)
        note("core", core / whole)
    await model.aclose()
    return [
        *(
            median_figure(f"overhead_{name}_ms", found[name], at_most=LIMIT_MS)
            for name in ("ainvoke", "invoke")
        ),
        median_figure("share_at_64_at_once", found["at_once"], at_most=LIMIT_AT_ONCE),
        median_figure("share_at_64_at_once_easy", found["easy"]),
        median_figure("import_seconds", found["import"], at_most=IMPORT_LIMIT_S),
        median_figure("import_share_of_langchain_core", found["core"]),
    ]


def main() -> int:
    """Measure, and print the figures."""
    parser = make_parser(__doc__ or "", repetitions=5)
    parser.add_argument("--engine", choices=get_args(EngineName), default="transformers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = asyncio.run(measure(arguments.repetitions, arguments.engine))
    facts = {
        "calls": NUM_TURNS * CALLS_IN_TURN,
        "turns_at_once": TURNS_AT_ONCE,
        "engine": arguments.engine,
    }
    return report(figures, arguments, facts)


if __name__ == "__main__":
    sys.exit(main())
