"""Tokens are counted in the model's own, wherever LlamaIndex is told how to count."""

from __future__ import annotations

from typing import Any

import llama_index.core
import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import TokenCountingHandler
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.utils import get_tokenizer

from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend import model as model_module
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.model import REFERENCE_FOLDER
from tests.conftest import ModelFactory

CHAT = ScriptedChat()


@pytest.fixture
def llm(make_model: ModelFactory) -> AdaptiveLLM:
    """Its tokens are characters."""
    return AdaptiveLLM.from_model(make_model([CHAT.response("x", 0.9)], context_length=400))


@pytest.fixture(autouse=True)
def no_other_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where LlamaIndex would take one of OpenAI's, and leave the process's as it was."""

    def fail(*_: Any) -> None:
        pytest.fail("another model's tokenizer was asked for")

    monkeypatch.setattr("tiktoken.encoding_for_model", fail)
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
    monkeypatch.setattr(Settings, "_tokenizer", None)


def test_settings_count_in_the_models_tokens(llm: AdaptiveLLM) -> None:
    Settings.tokenizer = llm.tokenize
    assert len(Settings.tokenizer("forty-one")) == len(get_tokenizer()("forty-one")) == 9


def test_a_handler_counts_in_the_models_tokens(llm: AdaptiveLLM) -> None:
    handler = TokenCountingHandler(tokenizer=llm.tokenize)
    assert handler._token_counter.get_string_tokens("forty-one") == 9


def test_a_memory_keeps_what_fits_in_the_models_tokens(llm: AdaptiveLLM) -> None:
    turns = [ChatMessage("a" * 40), ChatMessage("b" * 40, role="assistant"), ChatMessage("c" * 40)]
    memory = ChatMemoryBuffer.from_defaults(turns, token_limit=60, tokenizer_fn=llm.tokenize)
    assert [message.content for message in memory.get()] == ["c" * 40]


def test_a_memory_is_as_long_as_the_models_context(llm: AdaptiveLLM) -> None:
    memory = ChatMemoryBuffer.from_defaults(llm=llm, tokenizer_fn=llm.tokenize)
    assert memory.token_limit == 300


def test_prompts_are_fitted_in_the_models_tokens(llm: AdaptiveLLM) -> None:
    helper = PromptHelper.from_llm_metadata(llm.metadata, tokenizer=llm.tokenize)
    assert helper._token_counter.get_string_tokens("forty-one") == 9


@pytest.mark.slow  # the reference model's tokenizer
def test_counting_loads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(model_module, "load_model", fail)
    llm = AdaptiveLLM(base_url="http://localhost:1/v1", model_files=str(REFERENCE_FOLDER))
    assert len(llm.tokenize("Make 41.")) > 1
