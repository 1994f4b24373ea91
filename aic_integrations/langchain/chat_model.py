"""`ChatAdaptive`: adaptive Best-of-N with self-evaluations behind LangChain's chat model.

Importing it loads no weights and no torch; the model is loaded at the first call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from aic_integrations.langchain.base import (
    AdaptiveContextOverflowError,
    AdaptiveModel,
    Request,
    context_overflow,
    texts,
)
from aic_integrations.langchain.messages import PROVIDER, to_ai_message, to_conversation
from selfeval_backend.errors import ContextLengthError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.sync import run_sync

__all__ = ["AdaptiveContextOverflowError", "ChatAdaptive"]

_NOT_YET = {
    "streaming": "Streaming is not supported in this release: an answer is chosen only once its "
    "samples have finished. Use invoke, ainvoke, batch or abatch; on_progress reports every "
    "decision on the way. With disable_streaming=True, stream() gives the answer as one chunk.",
    "tools": "Tools are not supported in this release. Ask for the answer as text and parse it, "
    "for example with `llm | StrOutputParser()`.",
    "structured output": "Structured output is not supported in this release. Ask for JSON in the "
    "prompt and parse it, with `llm | JsonOutputParser()` or `llm | PydanticOutputParser(...)`.",
}
_NOT_YET_KEYWORDS = {
    "stream": "streaming",
    "streaming": "streaming",
    "tools": "tools",
    "tool_choice": "tools",
    "functions": "tools",
    "response_format": "structured output",
}


class ChatAdaptive(AdaptiveModel, BaseChatModel):
    """A chat model that draws samples until it trusts one, and returns that one.

    ::

        llm = ChatAdaptive(model="reference", max_samples=16)
        message = llm.invoke("Use 3, 19 and 25 to make 41.")
        message.response_metadata["best_of_n"]["confidence"]

    A setting that is None is what the model was tuned for, else the default of
    `selfeval_backend.settings.Settings`. Each may also be given for one call:
    ``llm.invoke(prompt, max_samples=4)`` or ``llm.bind(max_samples=4)``.

    A message's ``usage_metadata`` counts everything that was paid for (see
    `aic_integrations.langchain.messages.usage_metadata`), and its
    ``response_metadata["best_of_n"]`` says how the answer was come by, in JSON types.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
        NotImplementedError: Something is asked for that comes in a later release.
    """

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._chat_request(messages, stop, kwargs)
        return run_sync(self._answer(self._loaded_model(), request))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._chat_request(messages, stop, kwargs)
        # Reading weights takes seconds, and must not hold up the caller's loop.
        model = self.backend
        if model is None:
            model = await asyncio.to_thread(self._loaded_model)
        return await self._answer(model, request)

    def _chat_request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        return self._request(partial(to_conversation, messages), stop, kwargs)

    @classmethod
    def _spelled_out(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(values)
        for keyword, feature in _NOT_YET_KEYWORDS.items():
            if given.pop(keyword, None):
                _refuse(feature)
        return super()._spelled_out(given)

    async def _answer(self, model: SelfEvaluatingModel, request: Request) -> ChatResult:
        try:
            answer = await model.answer(
                request.conversation, model.settings(request.given), observer=self.on_progress
            )
        except ContextLengthError as error:
            raise context_overflow(error) from error
        message = to_ai_message(
            answer, texts=texts(answer, model) if request.include_samples else None
        )
        return ChatResult(
            generations=[ChatGeneration(message=message)], llm_output={"model_name": answer.model}
        )

    # What comes in a later release.

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        _refuse("streaming")

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        # A streaming handler that is attached to a plain invoke must not turn it into a stream.
        return super()._should_stream(async_api=async_api, run_manager=None, **kwargs)

    def _should_use_protocol_streaming(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        return False

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Raise NotImplementedError: tools come in a later release."""
        _refuse("tools")

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Raise NotImplementedError: structured output comes in a later release."""
        _refuse("structured output")

    # What LangChain asks for tracing.

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _refuse(feature: str) -> NoReturn:
    raise NotImplementedError(_NOT_YET[feature])
