"""The conformance suite over `AdaptiveLLM`, and over `OpenAILike` as the baseline."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest

from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, StreamCall
from selfeval_backend.model import REFERENCE_FOLDER, SelfEvaluatingModel, load_model
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conformance import (
    EventLog,
    LLMCase,
    LLMConformance,
    events,
    settings,
)
from tests.vllm_server import VllmServer

__all__ = ["EventLog", "events", "settings"]

CHAT = ScriptedChat()
QUESTION = "Use 3, 19 and 25 to make 41."


def running_on(server: VllmServer) -> float:
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


class TestScripted(LLMConformance):
    """`AdaptiveLLM` over a scripted engine."""

    @pytest.fixture
    def case(self, make_model: ModelFactory) -> LLMCase:
        def script(call: StreamCall) -> Any:
            words = CHAT.decode(call.prompt_ids).upper().replace(" ", " so ")
            return replace(CHAT.response(words, 0.95), delay_s=0.002)

        model = make_model(script, chunk_tokens=4, name="reference", context_length=2048)
        assert isinstance(model.engine, ScriptedEngine)
        engine = model.engine
        return LLMCase(
            llm=AdaptiveLLM.from_model(model, seed=0),
            make=partial(AdaptiveLLM.from_model, model, seed=0),
            flowing=AdaptiveLLM.from_model(model, seed=0, max_samples=1),
            question=QUESTION,
            context_window=engine.capabilities.context_length,
            num_running=lambda: engine.num_open,
        )

    @pytest.mark.skip(reason="a scripted engine does not travel")
    def test_pickle(self, case: LLMCase) -> None:
        super().test_pickle(case)


@pytest.fixture(scope="module")
def loaded() -> Iterator[SelfEvaluatingModel]:
    """The reference model in this process."""
    model = load_model(REFERENCE_FOLDER, engine="transformers")
    yield model
    asyncio.run(model.aclose())


@pytest.mark.slow
class TestTransformers(LLMConformance):
    """`AdaptiveLLM` over the reference model in this process."""

    @pytest.fixture
    def case(self, loaded: SelfEvaluatingModel) -> LLMCase:
        fields: dict[str, Any] = {"max_samples": 2, "seed": 0}
        engine: Any = loaded.engine
        return LLMCase(
            llm=AdaptiveLLM.from_model(loaded, **fields),
            make=partial(AdaptiveLLM.from_model, loaded, **fields),
            flowing=AdaptiveLLM.from_model(loaded, **{**fields, "max_samples": 1}),
            question=QUESTION,
            context_window=1024,
            num_running=lambda: engine.num_open,
        )


@pytest.mark.slow
class TestVllm(LLMConformance):
    """`AdaptiveLLM` over a real vLLM server."""

    @pytest.fixture
    def case(self, vllm_server: VllmServer) -> LLMCase:
        fields: dict[str, Any] = {
            "model": "reference",
            "base_url": vllm_server.base_url,
            "max_samples": 2,
            "seed": 0,
        }
        return LLMCase(
            llm=AdaptiveLLM(**fields),
            make=partial(AdaptiveLLM, **fields),
            flowing=AdaptiveLLM(**{**fields, "max_samples": 1}),
            question=QUESTION,
            context_window=1023,  # of 1024: vLLM wants room for a token after every prompt
            num_running=partial(running_on, vllm_server),
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open connections
@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestOpenAILike(LLMConformance):
    """LlamaIndex's own LLM for OpenAI-compatible servers, over the same server."""

    known_failures: ClassVar[dict[str, str]] = {
        "test_metadata_says_that_it_chats_and_what_fits": "context window 3900 if not told; "
        "num_output -1",
        "test_no_secret_in_its_dictionary_or_repr": "the key is in to_dict and repr",
        "test_the_last_of_a_stream_has_the_usage": "no usage in streams unless asked for",
        "test_raw_is_json": "raw is an object of the openai package",
        "test_token_counting[stream_complete]": "no usage in streams unless asked for",
        "test_token_counting[stream_chat]": "no usage in streams unless asked for",
        "test_an_image_is_refused_by_name": "the server's error, which does not name the block",
        "test_no_message_is_refused_before_it_is_sent": "the server's error, no ValueError",
        "test_a_prompt_that_does_not_fit_is_refused_with_its_size": "the server's error, no "
        "ValueError",
    }
    """What is expected to fail, and why; `docs/llama_index.md` has the table."""

    @pytest.fixture
    def case(self, vllm_server: VllmServer) -> Iterator[LLMCase]:
        openai_like = pytest.importorskip(
            "llama_index.llms.openai_like", reason="llama-index-llms-openai-like is not installed"
        )
        fields: dict[str, Any] = {
            "model": "reference",
            "api_base": vllm_server.base_url,
            "api_key": "none",
            "is_chat_model": True,
            "temperature": 0.0,
        }
        llm = openai_like.OpenAILike(**fields)
        yield LLMCase(
            llm=llm,
            make=lambda **more: openai_like.OpenAILike(**{**fields, **more}),
            flowing=llm,
            question=QUESTION,
            context_window=1024,
            num_running=partial(running_on, vllm_server),
        )
        llm._client = llm._aclient = None  # pytest keeps the case; nobody closes its connections
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
