"""A gated query engine whose LLM is the reference model on a real vLLM server."""

from __future__ import annotations

import time
from typing import Any

import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import Refine

from aic_integrations.llama_index import AdaptiveLLM, ConfidenceGateQueryEngine
from tests.integrations.llama_index.conftest import FirstNodes
from tests.vllm_server import VllmServer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("settings")]

EASY = "Use 8 and 12 to make 20."
HARD = "Use 3, 19, 25 and 7 to make 34, then 8, 11 and 12 to make 15, then 9 and 4 to make 5."


def gate_on(server: VllmServer, **settings: Any) -> ConfidenceGateQueryEngine:
    """A gate around an engine that asks the query itself: the model reads nothing else."""
    llm = AdaptiveLLM(model="reference", base_url=server.base_url, seed=0)
    plain = PromptTemplate("{query_str}")
    engine = RetrieverQueryEngine.from_args(
        FirstNodes(["Every number is used once."], 1),
        llm=llm,
        response_synthesizer=Refine(
            llm=llm, text_qa_template=plain, refine_template=plain, response_padding_size=0
        ),
    )
    return ConfidenceGateQueryEngine(engine, **settings)


def told(response: object) -> dict[str, Any]:
    assert isinstance(response, Response)
    assert response.metadata is not None
    gate: dict[str, Any] = response.metadata["confidence_gate"]
    return gate


async def test_what_is_sure_passes_at_once(vllm_server: VllmServer) -> None:
    response = await gate_on(vllm_server, threshold=0.5).aquery(EASY)
    gate = told(response)
    assert gate["action"] == "accept"
    assert len(gate["attempts"]) == 1
    assert "#### 8 + 12" in str(response)


async def test_what_is_not_is_tried_again_and_paid_for(vllm_server: VllmServer) -> None:
    before = vllm_server.metric("vllm:generation_tokens_total")
    gate = told(
        await gate_on(vllm_server, threshold=0.9999, on_low=("retry", "accept")).aquery(HARD)
    )
    first, second = gate["attempts"]
    assert (first["action"], second["action"]) == ("retry", "accept")
    assert first["confidence"] < 0.9999
    assert second["settings"]["max_samples"] > 1
    paid = gate["usage"]["generated_tokens"]
    assert paid == first["usage"]["generated_tokens"] + second["usage"]["generated_tokens"]
    assert vllm_server.metric("vllm:generation_tokens_total") - before >= paid
    deadline = time.monotonic() + 1
    while vllm_server.metric("vllm:num_requests_running"):
        assert time.monotonic() < deadline
