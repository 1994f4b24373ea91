"""`ChatAdaptive`: adaptive Best-of-N with self-evaluations behind LangChain's chat model.

Importing it loads no weights and no torch; the model is loaded at the first call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NoReturn, get_args

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from pydantic import BaseModel

from aic_integrations.langchain.base import (
    AdaptiveContextOverflowError,
    AdaptiveModel,
    Request,
    context_overflow,
    texts,
)
from aic_integrations.langchain.messages import PROVIDER, to_ai_message, to_conversation
from aic_integrations.langchain.structured import (
    FORM_KEYWORDS,
    Tool,
    form_of,
    json_parser,
    json_schema,
    openai_tools,
    tool_call_parser,
)
from selfeval_backend.errors import ConfigurationError, ContextLengthError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.structured import ToolForm
from selfeval_backend.sync import run_sync

__all__ = ["AdaptiveContextOverflowError", "ChatAdaptive"]

_NOT_YET = {
    "streaming": "Streaming is not supported in this release: an answer is chosen only once its "
    "samples have finished. Use invoke, ainvoke, batch or abatch; on_progress reports every "
    "decision on the way. With disable_streaming=True, stream() gives the answer as one chunk.",
}
_NOT_YET_KEYWORDS = {
    "stream": "streaming",
    "streaming": "streaming",
}

_Method = Literal["json_schema", "function_calling", "json_mode"]


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
        asked = {name: kwargs[name] for name in FORM_KEYWORDS if name in kwargs}
        settings = {name: value for name, value in kwargs.items() if name not in asked}
        request = self._request(partial(to_conversation, messages), stop, settings)
        return replace(request, form=form_of(asked))

    @classmethod
    def _spelled_out(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(values)
        for keyword, feature in _NOT_YET_KEYWORDS.items():
            if given.pop(keyword, None):
                _refuse(feature)
        return super()._spelled_out(given)

    async def _answer(self, model: SelfEvaluatingModel, request: Request) -> ChatResult:
        form = request.form
        if isinstance(form, ToolForm) and self.tool_parser is not None:
            # The first time vLLM is imported, which takes seconds.
            parser = await asyncio.to_thread(model.tool_parser, self.tool_parser)
            form = replace(form, parser=parser)
        try:
            answer = await model.answer(
                request.conversation,
                model.settings(request.given),
                tools=form.shown if isinstance(form, ToolForm) else (),
                form=form,
                observer=self.on_progress,
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
        if form_of({name: kwargs.get(name) for name in FORM_KEYWORDS}) is not None:
            # What has to be read as a whole is given as a whole: one chunk.
            return False
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
        form_of(asked)
        return self.bind(**asked, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: _Method = "json_schema",
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
        if method not in get_args(_Method):
            raise ConfigurationError("method", method, f"one of {', '.join(get_args(_Method))}")
        if schema is None and method != "json_mode":
            raise ConfigurationError("schema", schema, "a schema, but for json_mode")
        traced = {"kwargs": {"method": method}, "schema": schema}
        if method == "function_calling" and schema is not None:
            (tool,) = openai_tools([schema])
            name = tool["function"]["name"]
            llm = self.bind_tools(
                [tool], tool_choice=name, ls_structured_output_format=traced, **kwargs
            )
            parser = tool_call_parser(schema, name)
        else:
            asked: dict[str, Any] = {"type": "json_object"}
            if schema is not None:
                described = {"name": "answer", "schema": json_schema(schema)}
                asked = {"type": "json_schema", "json_schema": described}
                kwargs["ls_structured_output_format"] = traced
            form_of({"response_format": asked})
            llm = self.bind(response_format=asked, **kwargs)
            parser = json_parser(schema)
        return _with_raw(llm, parser) if include_raw else llm | parser

    # What LangChain asks for tracing.

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Runnable[AIMessage, Any]
) -> Runnable[LanguageModelInput, Any]:
    """Return what gives the message too, and an error of parsing instead of raising it."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _refuse(feature: str) -> NoReturn:
    raise NotImplementedError(_NOT_YET[feature])
