"""`ChatAdaptive`: adaptive Best-of-N with self-evaluations behind LangChain's chat model.

Importing it loads no weights and no torch; the model is loaded at the first call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

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
from pydantic import BaseModel

from aic_integrations.langchain.base import (
    AdaptiveContextOverflowError,
    AdaptiveModel,
    Request,
)
from aic_integrations.langchain.messages import (
    PROVIDER,
    last_chunk,
    reasoning_chunk,
    to_ai_message,
    to_messages,
)
from aic_integrations.langchain.progress import RunManager
from aic_integrations.langchain.structured import (
    FORM_KEYWORDS,
    Method,
    Tool,
    check_method,
    forced_call,
    form_of,
    json_parser,
    json_schema,
    openai_tools,
    parsed_by,
)
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.generators import Owned
from selfeval_backend.model import Answer, ReasoningPiece, SelfEvaluatingModel
from selfeval_backend.sync import iterate_sync, run_sync

__all__ = ["AdaptiveContextOverflowError", "ChatAdaptive"]


class ChatAdaptive(AdaptiveModel, BaseChatModel):
    """A chat model that draws samples until it trusts one, and returns that one.

    ::

        llm = ChatAdaptive(model="reference", max_samples=16)
        message = llm.invoke("Use 3, 19 and 25 to make 41.")
        message.response_metadata["best_of_n"]["confidence"]

    A setting that is None is what the model was tuned for, else what its generation_config.json
    says, else the default of `selfeval_backend.settings.Settings`. Each may also be given for one
    call: ``llm.invoke(prompt, max_samples=4)`` or ``llm.bind(max_samples=4)``.

    A message's ``usage_metadata`` counts everything that was paid for (see
    `aic_integrations.langchain.messages.usage_metadata`), and its
    ``response_metadata["best_of_n"]`` says how the answer was come by, in JSON types.

    A stream gives the text as soon as it is certain which sample it is: from the checkpoint where
    one is accepted (`accept_above`), or where only one is left; metadata and usage come with the
    last chunk. What happens before, LangChain's handlers get as custom events "best_of_n".

    What a model thought before it answered (see `reasoning_parser`) is no content: it stands in
    ``additional_kwargs["reasoning_content"]``.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
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
        async with Owned(self._chunks(model, request, run_manager)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _chat_request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        asked = {name: kwargs[name] for name in FORM_KEYWORDS if name in kwargs}
        # LangChain passes on what it has decided by: "stream".
        settings = {n: value for n, value in kwargs.items() if n not in asked and n != "stream"}
        request = self._request(partial(to_messages, messages), stop, settings)
        return replace(request, form=form_of(asked))

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
        shown = reasoned = ""
        async with Owned(self._streamed(model, request, run_manager)) as items:
            async for item in items:
                if isinstance(item, Answer):
                    message = _message(item, model, request)
                    chunk = last_chunk(message, shown=shown, reasoned=reasoned)
                elif isinstance(item, ReasoningPiece):
                    reasoned += item
                    chunk = reasoning_chunk(str(item))  # merging asks for one type
                else:
                    shown += item
                    chunk = AIMessageChunk(content=item)
                yield ChatGenerationChunk(message=chunk)

    # What an answer must be.

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools that it may call.

        A call that is forced is drawn under the grammar of the tools' arguments. Where the choice
        is the model's, samples are drawn freely and read (see `tool_parser`); one with a call that
        cannot be read is chosen only where there is no other.

        Args:
            tools: Functions, pydantic classes, LangChain tools, or OpenAI's dicts.
            tool_choice: None or "auto": the model's; "any", "required" or True: at least one call;
                a tool's name: a call of it; "none" or False: text.
            parallel_tool_calls: False: at most one call.
            strict: Of no effect: a grammar is always strict.
            kwargs: Settings.

        Raises:
            ConfigurationError: One of the tools cannot be one, or there is none of that name.
        """
        asked: dict[str, Any] = {"tools": openai_tools(tools)}
        if tool_choice is not None:
            asked["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            asked["parallel_tool_calls"] = parallel_tool_calls
        # LangChain's suite binds tools of one name: a call with them is refused, not the binding.
        by_name = {str(tool.get("function", {}).get("name")): tool for tool in asked["tools"]}
        form_of({**asked, "tools": list(by_name.values())})
        return self.bind(**asked, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the model with answers of a schema, every sample drawn under its grammar.

        An answer that is not of the schema (it was cut at `max_tokens`, in all samples) is an
        OutputParserException.

        Args:
            schema: A pydantic class, of which answers are instances; a TypedDict or a JSON schema:
                they are dicts. None, with "json_mode": any object.
            method: "json_schema" and "json_mode": the answer's text is the JSON, and the prompt
                says nothing of the schema that you do not say; "function_calling": it is the call
                of a tool, which the prompt shows.
            include_raw: Return a dict of `raw`, the message, `parsed`, and `parsing_error`.
            strict: Of no effect: a grammar is always strict.
            kwargs: Settings.

        Raises:
            ConfigurationError: The schema is none, or the method is unknown.
        """
        check_method(method)
        if schema is None and method != "json_mode":
            raise ConfigurationError("schema", schema, "a schema, except with json_mode")
        if method == "function_calling" and schema is not None:
            return forced_call(self.bind_tools, schema, include_raw=include_raw, **kwargs)
        asked: dict[str, Any] = {"type": "json_object"}
        if schema is not None:
            described = {"name": "answer", "schema": json_schema(schema)}
            asked = {"type": "json_schema", "json_schema": described}
            kwargs["ls_structured_output_format"] = {"kwargs": {"method": method}, "schema": schema}
        form_of({"response_format": asked})
        llm = self.bind(response_format=asked, **kwargs)
        return parsed_by(llm, json_parser(schema), include_raw=include_raw)

    # What LangChain asks for tracing.

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _message(answer: Answer, model: SelfEvaluatingModel, request: Request) -> AIMessage:
    return to_ai_message(answer, texts=request.call.texts(model, answer))
