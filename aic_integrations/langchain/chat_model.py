"""`ChatAdaptive`: adaptive Best-of-N with self-evaluations behind LangChain's chat model.

Importing it loads no weights and no torch; the model is loaded at the first call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, NoReturn

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from aic_integrations.langchain.base import (
    AdaptiveContextOverflowError,
    AdaptiveModel,
    Request,
    texts,
)
from aic_integrations.langchain.messages import (
    PROVIDER,
    last_chunk,
    to_ai_message,
    to_conversation,
)
from aic_integrations.langchain.progress import RunManager
from selfeval_backend.model import Answer, SelfEvaluatingModel
from selfeval_backend.sync import iterate_sync, run_sync

__all__ = ["AdaptiveContextOverflowError", "ChatAdaptive"]

_NOT_YET = {
    "tools": "Tools are not supported in this release. Ask for the answer as text and parse it, "
    "for example with `llm | StrOutputParser()`.",
    "structured output": "Structured output is not supported in this release. Ask for JSON in the "
    "prompt and parse it, with `llm | JsonOutputParser()` or `llm | PydanticOutputParser(...)`.",
}
_NOT_YET_KEYWORDS = {
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

    A stream gives the text as soon as it is certain which sample it is: from the checkpoint where
    one is accepted (`accept_above`), or where only one is left; metadata and usage come with the
    last chunk. What happens before, LangChain's handlers get as custom events "best_of_n".

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
        NotImplementedError: Something is asked for that comes in a later release.
    """

    streaming: bool = False
    """Whether `invoke` streams too, for handlers that listen to new tokens."""

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._chat_request(messages, stop, kwargs)
        return run_sync(self._result(self._loaded_model(), request, run_manager))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._chat_request(messages, stop, kwargs)
        return await self._result(await self._aloaded_model(), request, run_manager)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._chat_request(messages, stop, kwargs)
        chunks = iterate_sync(self._chunks(self._loaded_model(), request, run_manager))
        with closing(chunks):
            for chunk in chunks:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = self._chat_request(messages, stop, kwargs)
        model = await self._aloaded_model()
        async with aclosing(self._chunks(model, request, run_manager)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _chat_request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        # LangChain passes on what it has decided by.
        asked = {name: value for name, value in kwargs.items() if name != "stream"}
        return self._request(partial(to_conversation, messages), stop, asked)

    @classmethod
    def _spelled_out(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(values)
        for keyword, feature in _NOT_YET_KEYWORDS.items():
            if given.pop(keyword, None):
                _refuse(feature)
        return super()._spelled_out(given)

    async def _result(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> ChatResult:
        answer = await self._answered(model, request, run_manager)
        message = _message(answer, model, request)
        return ChatResult(
            generations=[ChatGeneration(message=message)], llm_output={"model_name": answer.model}
        )

    async def _chunks(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        shown = ""
        async with aclosing(self._streamed(model, request, run_manager)) as items:
            async for item in items:
                if isinstance(item, Answer):
                    chunk = last_chunk(_message(item, model, request), shown=shown)
                else:
                    shown += item
                    chunk = AIMessageChunk(content=item)
                yield ChatGenerationChunk(message=chunk)

    # What comes in a later release.

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


def _message(answer: Answer, model: SelfEvaluatingModel, request: Request) -> AIMessage:
    return to_ai_message(answer, texts=texts(answer, model) if request.include_samples else None)


def _refuse(feature: str) -> NoReturn:
    raise NotImplementedError(_NOT_YET[feature])
