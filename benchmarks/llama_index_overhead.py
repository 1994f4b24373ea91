"""What LlamaIndex's adapter costs beside the controller, and whether it holds up the event loop.

Overhead: milliseconds that one call of `AdaptiveLLM` takes longer than the same answer from the
bare model, over an engine that answers at once; the two take turns. Ticker: the longest time that
the event loop did not turn while 32 queries went through one query engine with the reference model
in this process; the same for 32 answers of the bare model; and the same queries with LlamaIndex's
own `MockLLM`, which is the framework's share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from adapters import CALLS_IN_TURN, NUM_TURNS, PROMPT, Call, overhead_ms
from common import Figure, make_parser, median_figure, report
from llama_index.core import Document, SummaryIndex
from llama_index.core import Settings as LlamaIndexSettings
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import Refine

from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.chat import Message
from selfeval_backend.model import SelfEvaluatingModel, load_model

NUM_QUERIES = 32
LIMIT_MS = 3.0
TICKER_LIMIT_MS = 50.0


def adapter(model: SelfEvaluatingModel, settings: dict[str, Any], *, synchronous: bool) -> Call:
    """Return the call of a model's adapter."""
    messages = [ChatMessage(PROMPT)]
    llm = AdaptiveLLM.from_model(model, **settings)

    async def call() -> None:
        await (asyncio.to_thread(llm.chat, messages) if synchronous else llm.achat(messages))

    return call


async def longest_block_ms(work: Callable[[], Awaitable[Any]]) -> float:
    """Return the longest time that the event loop did not turn meanwhile."""
    # The one place that knows how that is measured is beside the tests that need it too.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.ticker import longest_block_s

    return await longest_block_s(work) * 1000


async def tickers(llm: AdaptiveLLM, model: SelfEvaluatingModel) -> dict[str, float]:
    """Return the longest blocks of queries, and of bare answers to the same prompts."""
    LlamaIndexSettings.tokenizer = llm.tokenize
    prompts = [f"Use {n}, 19 and 25 to make {n + 44}." for n in range(2, NUM_QUERIES + 2)]
    given = model.settings({"max_samples": 4, "seed": 0})

    async def queries(engine: BaseQueryEngine) -> None:
        await asyncio.gather(*(engine.aquery(prompt) for prompt in prompts))

    async def answers() -> None:
        each = ([Message(role="user", content=prompt)] for prompt in prompts)
        await asyncio.gather(*(model.answer(messages, given) for messages in each))

    ours, mock = query_engine(llm), query_engine(MockLLM())
    for engine in (ours, mock):
        await engine.aquery(prompts[0])
    return {
        "idle": await longest_block_ms(partial(asyncio.sleep, 1)),
        "bare": await longest_block_ms(answers),
        "mock": await longest_block_ms(partial(queries, mock)),
        "queries": await longest_block_ms(partial(queries, ours)),
    }


def query_engine(llm: LLM) -> BaseQueryEngine:
    """Return a query engine that asks the query itself."""
    index = SummaryIndex.from_documents([Document(text="Every number is used once.")])
    plain = PromptTemplate("{query_str}")
    synthesizer = Refine(
        llm=llm, text_qa_template=plain, refine_template=plain, response_padding_size=0
    )
    return index.as_query_engine(llm=llm, response_synthesizer=synthesizer)


async def measure(repetitions: int) -> list[Figure]:
    """Return all figures."""
    reference = load_model("reference", engine="transformers")
    overheads, blocks = [], []
    for _ in range(repetitions):
        overheads.append(
            {
                name: await overhead_ms(partial(adapter, synchronous=sync), synchronous=sync)
                for name, sync in (("achat", False), ("chat", True))
            }
        )
        llm = AdaptiveLLM.from_model(reference, max_samples=4, seed=0)
        blocks.append(await tickers(llm, reference))
    await reference.aclose()
    return [
        *(
            median_figure(f"overhead_{name}_ms", [o[name] for o in overheads], at_most=LIMIT_MS)
            for name in ("achat", "chat")
        ),
        median_figure(
            "longest_block_queries_ms", [b["queries"] for b in blocks], at_most=TICKER_LIMIT_MS
        ),
        median_figure("longest_block_mock_ms", [b["mock"] for b in blocks]),
        median_figure("longest_block_bare_ms", [b["bare"] for b in blocks]),
        median_figure("longest_block_idle_ms", [b["idle"] for b in blocks]),
    ]


def main() -> int:
    """Measure, and print the figures."""
    arguments = make_parser(__doc__ or "", repetitions=3).parse_args()
    figures = asyncio.run(measure(arguments.repetitions))
    return report(figures, arguments, {"calls": NUM_TURNS * CALLS_IN_TURN, "queries": NUM_QUERIES})


if __name__ == "__main__":
    sys.exit(main())
