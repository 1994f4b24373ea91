"""LangChain's own standard suite."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from syrupy.assertion import SnapshotAssertion

from aic_integrations.langchain import ChatAdaptive, ConfidenceGateChatModel
from selfeval_backend.errors import ConfigurationError
from tests.vllm_server import VllmServer


class TestChatAdaptive(ChatModelUnitTests):
    """Everything but images, audio and files."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAdaptive

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "reference", "max_samples": 4}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # An in-process model has no key and retries nothing, and unknown names are refused.
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "stop": []}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {
            "AIC_API_KEY": "key",
            "AIC_MODEL": "served",
            "AIC_BASE_URL": "http://127.0.0.1:8000/v1",
        }
        expected = {"api_key": "key", "model": "served", "base_url": "http://127.0.0.1:8000/v1"}
        return env, {}, expected

    @pytest.mark.xfail(
        strict=True,
        raises=ValueError,
        reason='allowed_objects="all" means the classes of LangChain\'s own list; '
        "test_json_and_back names ours",
    )
    @pytest.mark.filterwarnings("ignore:The function `load` is in beta")
    @pytest.mark.filterwarnings("ignore:.*`dict` .*was deprecated")
    def test_serdes(self, model: BaseChatModel, snapshot: SnapshotAssertion) -> None:
        super().test_serdes(model, snapshot)


INNER = "settings such as these are given to the model in the gate"


class TestConfidenceGateChatModel(ChatModelUnitTests):
    """A model with a gate in it is one like any other."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ConfidenceGateChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": ChatAdaptive(model="reference", max_samples=4), "threshold": 0.8}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {}

    @pytest.mark.xfail(strict=True, raises=ConfigurationError, reason=INNER)
    def test_init_streaming(self) -> None:
        super().test_init_streaming()

    @pytest.mark.xfail(strict=True, raises=ConfigurationError, reason=INNER)
    def test_standard_params(self, model: BaseChatModel) -> None:
        super().test_standard_params(model)


class _ReferenceModel(ChatModelIntegrationTests):
    """Everything but images, audio and files: tools, structured output and JSON among it."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAdaptive

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "reference", "seed": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is in beta")
class TestChatAdaptiveOnAServer(_ReferenceModel):
    """The reference model on a real vLLM server."""

    base_url: str

    @pytest.fixture(autouse=True)
    def _on_the_server(self, vllm_server: VllmServer) -> None:
        self.base_url = vllm_server.base_url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "base_url": self.base_url}

    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        llm = ChatAdaptive(**self.chat_model_params, adaptive=False)
        if not stream:
            return llm.invoke("Use 3, 19 and 25 to make 41.")
        whole = reduce(add, llm.stream("Use 3, 19 and 25 to make 41."))
        assert isinstance(whole, AIMessage)
        return whole


@pytest.mark.slow
class TestChatAdaptiveInProcess(_ReferenceModel):
    """The reference model in this process."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "engine": "transformers"}
