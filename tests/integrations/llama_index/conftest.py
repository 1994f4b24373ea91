"""What the tests of LlamaIndex share: scripted answers, and retrieval without an embedding."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, StreamCall
from selfeval_backend.model import SelfEvaluatingModel
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conformance import settings

__all__ = ["FirstNodes", "engine_of", "make_engine", "settings"]

CHAT = ScriptedChat()
FACTS = ("He was born.", "He wrote it.", "He died.")


class FirstNodes(BaseRetriever):
    """Finds the first ones, whatever is asked."""

    def __init__(self, texts: Sequence[str], similarity_top_k: int) -> None:
        self.texts = texts
        self.similarity_top_k = similarity_top_k
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=TextNode(text=text), score=1.0)
            for text in self.texts[: self.similarity_top_k]
        ]


def make_engine(
    llm: Any, *, texts: Sequence[str] = FACTS, similarity_top_k: int = 1, **keywords: Any
) -> RetrieverQueryEngine:
    """Return a query engine whose prompt is the context and the question."""
    return RetrieverQueryEngine.from_args(
        FirstNodes(texts, similarity_top_k),
        llm=llm,
        text_qa_template=PromptTemplate("{context_str} {query_str}"),
        **keywords,
    )


def engine_of(llm: AdaptiveLLM) -> ScriptedEngine:
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    return llm.backend.engine


@pytest.fixture(autouse=True)
def event_loop_of_sync_code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give synchronous tests the event loop that LlamaIndex would make, and leave open."""
    if inspect.iscoroutinefunction(request.function):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def model(make_model: ModelFactory) -> SelfEvaluatingModel:
    """Sure of itself only where it is told who wrote it."""

    def script(call: StreamCall) -> Any:
        knows = "wrote" in CHAT.decode(call.prompt_ids).partition("?")[0]
        return CHAT.response("He did", 0.95) if knows else CHAT.response("Nobody did", 0.3)

    return make_model(script, name="double", context_length=4096)


@pytest.fixture
def llm(model: SelfEvaluatingModel) -> AdaptiveLLM:
    return AdaptiveLLM.from_model(model, max_samples=2, seed=0)
