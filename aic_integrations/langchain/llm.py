"""`AdaptiveLLM`: adaptive Best-of-N with self-evaluations behind LangChain's completion model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from aic_integrations.langchain.base import AdaptiveModel, Request
from aic_integrations.langchain.messages import PROVIDER, to_ai_message
from aic_integrations.langchain.progress import RunManager
from selfeval_backend.chat import CheckedMessages, Message, check_messages
from selfeval_backend.generators import Owned
from selfeval_backend.model import Answer, ReasoningPiece, SelfEvaluatingModel
from selfeval_backend.sync import contained, iterate_sync, run_sync

__all__ = ["AdaptiveLLM"]


class AdaptiveLLM(AdaptiveModel, BaseLLM):
    """A completion model that draws samples until it trusts one, and returns that one's text.

    ::

        llm = AdaptiveLLM(model="reference", max_samples=16)
        llm.invoke("Use 3, 19 and 25 to make 41.")

    Text goes in and comes out; the model is asked it as the first turn of a conversation, as its
    self-evaluation is of conversations. Settings are those of `ChatAdaptive`, and streams flow as
    its streams do. A generation's ``generation_info`` holds what `ChatAdaptive` puts into
    ``response_metadata``, and ``usage_metadata``; a stream has it on its last chunk. So it does
    what the model thought before it answered (see `reasoning_parser`), as ``reasoning_content``.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
    """

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = [self._text_request(prompt, stop, kwargs) for prompt in prompts]
        return run_sync(self._result(self._loaded_model(), requests, run_manager))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = [self._text_request(prompt, stop, kwargs) for prompt in prompts]
        return await self._result(await self._aloaded_model(), requests, run_manager)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        request = self._text_request(prompt, stop, kwargs)
        chunks = iterate_sync(self._chunks(self._loaded_model(), request, run_manager))
        with closing(chunks):
            for chunk in chunks:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        request = self._text_request(prompt, stop, kwargs)
        model = await self._aloaded_model()
        async with Owned(self._chunks(model, request, run_manager)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _text_request(
        self, prompt: str, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        return self._request(partial(_as_messages, prompt), stop, kwargs)

    async def _result(
        self, model: SelfEvaluatingModel, requests: list[Request], run_manager: RunManager | None
    ) -> LLMResult:
        # LangChain hands over one run for all prompts: whose progress it is could not be told.
        told = run_manager if len(requests) == 1 else None
        tasks = [
            asyncio.create_task(contained(partial(self._generation, model, each, told)))
            for each in requests
        ]
        try:
            for ended in asyncio.as_completed(tasks):
                (await ended).result()  # the first that fails ends all
            generations = [task.result().result() for task in tasks]
        finally:  # one that failed leaves none running
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return LLMResult(
            generations=[[generation] for generation in generations],
            llm_output={"model_name": model.name},
        )

    async def _generation(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> Generation:
        answer = await self._answered(model, request, run_manager)
        text = answer.text if answer.parsed is None else answer.parsed.text
        return Generation(text=text, generation_info=_info(answer, model, request))

    async def _chunks(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> AsyncGenerator[GenerationChunk, None]:
        async with Owned(self._streamed(model, request, run_manager)) as items:
            async for item in items:
                if isinstance(item, Answer):
                    info = _info(item, model, request)
                    yield GenerationChunk(text="", generation_info=info)
                elif not isinstance(item, ReasoningPiece):
                    yield GenerationChunk(text=item)

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _as_messages(prompt: str) -> CheckedMessages:
    return check_messages([Message(role="user", content=prompt)])


def _info(answer: Answer, model: SelfEvaluatingModel, request: Request) -> dict[str, Any]:
    message = to_ai_message(answer, texts=request.call.texts(model, answer))
    return {
        **message.response_metadata,
        **message.additional_kwargs,
        "usage_metadata": message.usage_metadata,
    }
