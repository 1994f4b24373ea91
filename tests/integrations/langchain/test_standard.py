"""LangChain's own standard suite."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests
from syrupy.assertion import SnapshotAssertion

from aic_integrations.langchain import ChatAdaptive


class TestChatAdaptive(ChatModelUnitTests):
    """Text in, text out: no tools, no structured output, no images in this release."""

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
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

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
