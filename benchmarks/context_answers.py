"""Answers from a text in LlamaIndex's own prompts: one sample against adaptive, and the gate.

    python benchmarks/context_answers.py --model build/reference/training/reference --plot c.png
    python benchmarks/context_answers.py --model build/reference/training/reference --retrieve 6

Questions about held-out texts (the reference model's skill `context`) are asked by
`AdaptiveLLM.achat` in the words that LlamaIndex would ask them in. With ``--retrieve`` the whole
chain is run: passages of several texts stand in one index, and a query engine finds some and asks.

An answer is right if it is word for word what was wanted. "The context does not say." is an answer
like any other: right where the text has none. ± is one standard error over the questions, brackets
are 95 % intervals by bootstrap over them; the methods answer the same questions, so their
differences are paired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import statistics
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common import mean_with_error
from llama_index.core import Settings as LlamaIndexSettings
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.response_synthesizers import CompactAndRefine
from llama_index.core.schema import TextNode

from aic_integrations.llama_index import AdaptiveLLM, Collection, collect_best_of_n
from reference_model.skills import Example, generate_examples, reward
from reference_model.skills.context import QA_TEMPLATES, REFINE_TEMPLATE, UNKNOWN
from selfeval_backend.errors import ContextLengthError
from selfeval_backend.evaluation.markdown import markdown_table, plain, signed
from selfeval_backend.evaluation.plots import Curve, draw_curves
from selfeval_backend.evaluation.quality import Prediction, expected_calibration_error
from selfeval_backend.evaluation.risk_coverage import RiskCoverage, risk_coverage
from selfeval_backend.files import finite

CONCURRENCY = 16
ONE_SAMPLE = "one sample"
ADAPTIVE = "adaptive"
SAID, UNSAID, REFINED = "the text says it", "the text does not say it", "it is answered already"
FOUND, MISSED = "its passage is found", "its passage is not found"
PLOTTED_SHARES = tuple(percent / 100 for percent in range(100, 0, -5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and how it is put to a model."""

    example: Example
    kind: str
    """What its text says of it."""
    ask: Callable[[AdaptiveLLM], Awaitable[str]]
    """Returns the answer's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one question under one method."""

    reward: float
    """1.0: exactly right."""
    confidence: float | None
    """prob_win_or_tie; None: it was not asked for, or there is no answer."""
    tokens: int
    """In and out, of all samples and self-evaluations, each once; cached ones left out."""
    generated_tokens: int
    num_samples: int
    num_calls: int
    """Of the model; more than one where an engine refines."""
    fits: bool = True
    """Whether the model could read the question; if not it has no answer."""
    sample_rewards: tuple[float, ...] = ()
    """Of all samples, where they were asked for."""


# Questions.


def given(example: Example) -> Question:
    """Return a question that its text is given with, in the example's very words."""
    refined = _filled(REFINE_TEMPLATE, example)
    kind = UNSAID if example.want["answer"] == UNKNOWN else SAID
    if refined is not None and refined["existing_answer"] != UNKNOWN:
        kind = REFINED
    messages = [ChatMessage(role=m.role, content=m.content) for m in example.messages]

    async def ask(llm: AdaptiveLLM) -> str:
        return (await llm.achat(messages)).message.content or ""

    return Question(example=example, kind=kind, ask=ask)


def retrieved(examples: Sequence[Example], top_k: int) -> list[Question]:
    """Return questions whose passages a query engine has to find among those of all their texts."""
    asked = [_context_and_query(example) for example in examples]
    passages = [TextNode(text=passage) for context, _ in asked for passage in _passages(context)]
    index = VectorStoreIndex(passages, embed_model=HashedTrigrams())
    retriever = index.as_retriever(similarity_top_k=top_k)

    def question(example: Example, query: str) -> Question:
        async def ask(llm: AdaptiveLLM) -> str:
            # LlamaIndex's own prompts; what it keeps free for refining is what an answer may have,
            # and not its 500 tokens, which are half of a small model's context.
            synthesizer = CompactAndRefine(llm=llm, response_padding_size=llm.max_tokens or 0)
            engine = index.as_query_engine(
                llm=llm, similarity_top_k=top_k, response_synthesizer=synthesizer
            )
            return str(await engine.aquery(query))

        found = [node.text for node in retriever.retrieve(query)]
        return Question(example=example, kind=_kind_of_found(example, found), ask=ask)

    return [question(each, query) for each, (_, query) in zip(examples, asked, strict=True)]


def _kind_of_found(example: Example, passages: Iterable[str]) -> str:
    wanted = example.want["answer"]
    if wanted == UNKNOWN:
        return UNSAID
    meant = example.right.pieces[0].text  # the name of whoever the question means
    return FOUND if any(meant in text and wanted in text for text in passages) else MISSED


def _passages(context: str) -> list[str]:
    """Return the paragraphs of a text, without the names of their files."""
    return [part for part in re.split(r"\n+", context) if not part.startswith("file_path: ")]


def _context_and_query(example: Example) -> tuple[str, str]:
    found = next(filter(None, (_filled(template, example) for template in QA_TEMPLATES)))
    return found["context_str"], found["query_str"]


def _is_asked_once(example: Example) -> bool:
    return _filled(REFINE_TEMPLATE, example) is None


def _filled(template: str, example: Example) -> dict[str, str] | None:
    """Return what an example's prompt has filled a template with; None: it is another one."""
    form = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*)", re.escape(template))
    found = re.fullmatch(form, example.messages[-1].content, re.DOTALL)
    return None if found is None else found.groupdict()


class HashedTrigrams(BaseEmbedding):
    """Counts of three letters in a row, as in examples/llama_index_query.py: names are found."""

    def _get_text_embedding(self, text: str) -> list[float]:
        counts = [0.0] * 1024
        for place in range(len(text) - 2):
            counts[zlib.crc32(text[place : place + 3].lower().encode()) % 1024] += 1
        return counts

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def draw_questions(num: int, *, seed: int, top_k: int, pool: int) -> list[Question]:
    """Return held-out questions.

    Args:
        num: How many.
        seed: Of the examples.
        top_k: Passages that are retrieved; 0: the texts are given.
        pool: Of how many questions the texts stand in one index.
    """
    examples = generate_examples("test", seed=seed, mix={"context": 1})
    if not top_k:
        return [given(example) for example in islice(examples, num)]
    drawn = list(islice(filter(_is_asked_once, examples), num))
    pools = [drawn[place : place + pool] for place in range(0, num, pool)]
    return [question for each in pools for question in retrieved(each, top_k)]


# Methods.


def make_methods(chosen: argparse.Namespace) -> dict[str, AdaptiveLLM]:
    """Return the methods to compare, by name."""
    common = {"model": chosen.model, "max_tokens": chosen.max_tokens, "seed": chosen.seed}
    return {
        ONE_SAMPLE: AdaptiveLLM(max_samples=1, annealing="constant", temperature=1.0, **common),
        "greedy": AdaptiveLLM(max_samples=1, **common),
        ADAPTIVE: AdaptiveLLM(max_samples=chosen.max_samples, adaptive=True, **common),
    }


def fresh_sampler(chosen: argparse.Namespace) -> AdaptiveLLM:
    """Return what draws the samples that "a fresh one would not be better" is about."""
    return AdaptiveLLM(
        model=chosen.model,
        max_samples=chosen.fresh,
        adaptive=False,
        prune_at=(),
        annealing="constant",
        temperature=1.0,
        max_tokens=chosen.max_tokens,
        seed=chosen.seed + 1,
        include_samples=True,
    )


async def answer(question: Question, llm: AdaptiveLLM, room: asyncio.Semaphore) -> Reply:
    """Put one question to a model."""
    async with room:
        with collect_best_of_n() as collected:
            try:
                text = await question.ask(llm)
            except ValueError as error:
                if not _is_too_long(error):
                    raise
                return _reply(collected, 0.0, fits=False)
    if not collected.calls:  # LlamaIndex asks nothing where there is no room for a passage
        return _reply(collected, 0.0, fits=False)
    score = reward(question.example, text)
    # What an engine asks several times for is answered by the last call.
    texts = (collected.calls[-1].best_of_n or {}).get("texts", ())
    return _reply(collected, score, tuple(reward(question.example, each) for each in texts))


def _is_too_long(error: ValueError) -> bool:
    """Tell whether a prompt does not fit; LlamaIndex has no class for that."""
    by_llama_index = ("Chunk size", "Calculated available context size")
    return isinstance(error, ContextLengthError) or str(error).startswith(by_llama_index)


def _reply(
    collected: Collection,
    score: float,
    sample_rewards: tuple[float, ...] = (),
    *,
    fits: bool = True,
) -> Reply:
    usage = collected.usage
    return Reply(
        reward=score,
        confidence=collected.confidence if fits else None,
        tokens=usage.input_tokens - usage.cached_input_tokens + usage.generated_tokens,
        generated_tokens=usage.generated_tokens,
        num_samples=sum(
            call.best_of_n["num_samples"] for call in collected.calls if call.best_of_n
        ),
        num_calls=len(collected.calls),
        fits=fits,
        sample_rewards=sample_rewards,
    )


async def answer_all(questions: Sequence[Question], llm: AdaptiveLLM) -> list[Reply]:
    """Put all questions to a model, several at once."""
    room = asyncio.Semaphore(CONCURRENCY)
    return await asyncio.gather(*(answer(question, llm, room) for question in questions))


# Figures.

Replies = Mapping[str, Sequence[Reply]]
"""By method, in the order of the questions."""


def difference(ones: Sequence[Reply], others: Sequence[Reply]) -> str:
    """Return the mean paired difference of two methods' rewards, and its standard error."""
    pairs = zip(ones, others, strict=True)
    return mean_with_error((one.reward - other.reward for one, other in pairs), sign="+")


def compare(questions: Sequence[Question], replies: Replies) -> str:
    """Return a table of methods on all questions and on each kind of them."""
    kinds = sorted({question.kind for question in questions})
    rows = []
    for kind in ("all", *kinds):
        chosen = [place for place, q in enumerate(questions) if kind in ("all", q.kind)]
        of_kind = {name: [all_[place] for place in chosen] for name, all_ in replies.items()}
        for name, each in of_kind.items():
            rows.append(
                (
                    f"{kind} ({len(chosen)})",
                    name,
                    mean_with_error(reply.reward for reply in each),
                    "" if name == ONE_SAMPLE else difference(each, of_kind[ONE_SAMPLE]),
                    f"{statistics.fmean(reply.tokens for reply in each):.0f}",
                    f"{statistics.fmean(reply.generated_tokens for reply in each):.1f}",
                    f"{statistics.fmean(reply.num_samples for reply in each):.2f}",
                )
            )
    head = ("questions", "method", "exact match", f"less {ONE_SAMPLE}")
    return markdown_table((*head, "tokens", "generated", "samples"), rows)


def calibration_error(replies: Sequence[Reply], targets: Sequence[float], *, seed: int) -> str:
    """Return the ECE of the confidences that there are, against what was true."""
    predictions = [
        # The logit is of no account here.
        Prediction(
            prompt=place,
            logit=0.0,
            prob_win_or_tie=reply.confidence,
            target=target,
            reward=reply.reward,
        )
        for place, (reply, target) in enumerate(zip(replies, targets, strict=True))
        if reply.confidence is not None
    ]
    return (
        plain(expected_calibration_error.estimate(predictions, seed=seed)) if predictions else "-"
    )


def shares_not_better(replies: Sequence[Reply], fresh: Sequence[Reply]) -> list[float]:
    """Return how many of the fresh samples of each question are not better than its answer."""
    return [
        # Of what does not fit there are none.
        statistics.fmean(other <= reply.reward for other in drawn.sample_rewards or (0.0,))
        for reply, drawn in zip(replies, fresh, strict=True)
    ]


def calibrate(replies: Replies, fresh: Sequence[Reply] | None, *, seed: int) -> str:
    """Return a table of calibration errors: of being right, and of what a confidence says."""
    rows = []
    for name, each in replies.items():
        said = [reply.confidence for reply in each if reply.confidence is not None]
        right = [reply.reward for reply in each]
        of_fresh = [] if fresh is None else shares_not_better(each, fresh)
        rows.append(
            (
                name,
                mean_with_error(said) if said else "-",
                calibration_error(each, right, seed=seed),
                calibration_error(each, of_fresh, seed=seed) if fresh is not None else "-",
            )
        )
    return markdown_table(
        ("method", "confidence", "ECE: it is right", "ECE: a fresh sample is not better"), rows
    )


def selective(replies: Sequence[Reply], *, seed: int, **settings: Any) -> RiskCoverage:
    """Return the curve of one method; what has no confidence is answered last."""
    confidences = [-math.inf if r.confidence is None else r.confidence for r in replies]
    return risk_coverage(confidences, [r.reward for r in replies], seed=seed, **settings)


def gate_tables(curves: Mapping[str, RiskCoverage]) -> str:
    """Return tables of what a gate leaves: by share answered, and the areas."""
    points = zip(*(curve.points for curve in curves.values()), strict=True)
    by_share = [
        (f"{100 * row[0].share:.0f} %", *(f"{plain(p.accuracy)} at {p.threshold:.2f}" for p in row))
        for row in points
    ]
    areas = [
        (name, plain(c.area), plain(c.perfect_area), plain(c.random_area), signed(c.gain))
        for name, c in curves.items()
    ]
    heads = ("method", "area under risk", "perfect order", "random order", "random less area")
    return f"{markdown_table(('answered', *curves), by_share)}\n{markdown_table(heads, areas)}"


def plot(path: Path, replies: Replies, *, seed: int) -> None:
    """Draw shares answered against accuracies."""
    curves = []
    for name, each in replies.items():
        points = selective(each, seed=seed, shares=PLOTTED_SHARES).points
        curves.append(
            Curve(
                name=name,
                x=tuple(point.share for point in points),
                y=tuple(point.accuracy for point in points),
                emphasised=name == ADAPTIVE,
            )
        )
    draw_curves(
        path.with_suffix(""),
        curves,
        title="Answering only what one is confident of",
        x="share of questions answered",
        y="exact match of those",
    )


def _json(
    questions: Sequence[Question],
    replies: Replies,
    fresh: Sequence[Reply] | None,
    curves: Mapping[str, RiskCoverage],
    facts: Mapping[str, Any],
) -> str:
    body = {
        **facts,
        "kinds": [question.kind for question in questions],
        "replies": {name: [asdict(reply) for reply in each] for name, each in replies.items()},
        "fresh": None if fresh is None else [reply.sample_rewards for reply in fresh],
        "risk_coverage": {name: asdict(curve) for name, curve in curves.items()},
    }
    return json.dumps(finite(body), default=str)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=500, help="questions")
    parser.add_argument("--seed", type=int, default=0, help="of the questions and of the samples")
    parser.add_argument("--model", default="reference")
    parser.add_argument("--max-samples", type=int, default=8, help="of adaptive")
    parser.add_argument("--max-tokens", type=int, default=96, help="of one sample")
    parser.add_argument("--retrieve", type=int, default=0, metavar="K", help="passages to find")
    parser.add_argument("--pool", type=int, default=8, help="texts in one index")
    parser.add_argument(
        "--fresh",
        type=int,
        default=8,
        help="samples a question that confidences are checked against; 0: they are not",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to save the curves")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    chosen = read_arguments()
    methods = make_methods(chosen)
    LlamaIndexSettings.tokenizer = methods[ADAPTIVE].tokenize
    questions = draw_questions(chosen.n, seed=chosen.seed, top_k=chosen.retrieve, pool=chosen.pool)
    began = time.monotonic()
    replies = {n: asyncio.run(answer_all(questions, llm)) for n, llm in methods.items()}
    fresh = asyncio.run(answer_all(questions, fresh_sampler(chosen))) if chosen.fresh else None
    seconds = round(time.monotonic() - began, 1)
    curves = {name: selective(each, seed=chosen.seed) for name, each in replies.items()}
    print(compare(questions, replies))
    print(calibrate(replies, fresh, seed=chosen.seed))
    print(gate_tables(curves))
    too_long = sum(not reply.fits for reply in replies[ADAPTIVE])
    if too_long:
        print(f"{too_long} of {chosen.n} questions do not fit the model: not right, no confidence.")
    if chosen.plot is not None:
        plot(chosen.plot, replies, seed=chosen.seed)
        print(f"plot: {chosen.plot}")
    if chosen.json:
        print(_json(questions, replies, fresh, curves, {**vars(chosen), "seconds": seconds}))


if __name__ == "__main__":
    main()
