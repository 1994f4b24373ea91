"""`AdaptiveLLM`: adaptive Best-of-N with self-evaluations behind LlamaIndex's LLM.

Importing it loads no weights and no torch; the model is loaded at the first call, or when its
`metadata` is asked for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools.types import BaseTool
from pydantic import ConfigDict, Field, SecretStr

from aic_integrations.llama_index.messages import (
    Piece,
    to_chat_response,
    to_chat_step,
    to_completion_response,
    to_completion_step,
    to_conversation,
)
from aic_integrations.llama_index.scopes import (
    CollectedCall,
    Collection,
    collections_in_force,
    settings_in_force,
)
from selfeval_backend.answers import best_of_n, sample_texts
from selfeval_backend.calls import (
    CALL_NAMES,
    AdaptiveFields,
    Call,
    check_fields,
    check_names,
    spell_out,
    with_server,
)
from selfeval_backend.chat import Message
from selfeval_backend.errors import NoFinishedSampleError, StreamBrokenError
from selfeval_backend.model import Answer, SelfEvaluatingModel
from selfeval_backend.sync import iterate_sync, run_sync

if TYPE_CHECKING:
    pass

__all__ = ["AdaptiveLLM"]

_NO_TOOLS = (
    "Tools are not supported in this release. Ask for the answer as text and parse it, or use an "
    "agent that writes its calls as text: llama_index.core.agent.workflow.ReActAgent."
)
_TOOL_KEYWORDS = ("tools", "tool_choice", "functions", "response_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A call, checked as far as it can be without the model."""

    conversation: tuple[Message, ...]
    call: Call
    collections: tuple[Collection, ...]
    """That its outcome belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """An answer, and what is told of it."""

    answer: Answer
    best_of_n: dict[str, Any]


class AdaptiveLLM(AdaptiveFields, FunctionCallingLLM):
    """An LLM that draws samples until it trusts one, and returns that one.

    ::

        Settings.llm = AdaptiveLLM(model="reference", max_samples=16)
        response = Settings.llm.complete("Use 3, 19 and 25 to make 41.")
        response.additional_kwargs["best_of_n"]["confidence"]

    A setting that is None is what the model was tuned for, else the default of
    `selfeval_backend.settings.Settings`. Each may also be given for one call,
    ``llm.chat(messages, max_samples=4)``, or for all calls that an engine makes, with
    `aic_integrations.llama_index.best_of_n_settings`.

    A response's ``raw["usage"]`` counts everything that was paid for, and its
    ``additional_kwargs["best_of_n"]`` says how the answer was come by, in JSON types.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
        NotImplementedError: Tools are asked for: they come in a later release.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    api_key: SecretStr | None = Field(
        default_factory=lambda: SecretStr(key) if (key := os.environ.get("AIC_API_KEY")) else None,
        exclude=True,
        repr=False,
    )
    """For the server; None: the variable AIC_API_KEY, if it is set. It is not in `to_dict`."""

    if not TYPE_CHECKING:  # checkers take the signature from the fields

        def __init__(self, **values: Any) -> None:
            # Here and not in a validator: pydantic would wrap our error into its own.
            values = with_server(spell_out(values))
            check_names(values, allowed=type(self).model_fields)
            check_fields(values)
            super().__init__(**values)

    @classmethod
    def from_model(cls, model: SelfEvaluatingModel, **settings: Any) -> AdaptiveLLM:
        """Return an LLM on a loaded model, for example one with a scripted engine.

        It is neither serialized nor pickled with it: what is read back looks `model.name` up.

        Args:
            model: Shared, not copied; whoever made it closes it.
            settings: Fields of `AdaptiveLLM`.

        Raises:
            ConfigurationError: A value is out of its range, or a name is unknown.
        """
        return cls(model=model.name, backend=model, **settings)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which it is serialized."""
        return "AdaptiveLLM"

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex's own deletes what cannot be pickled, and from the living object.
        travels = self.model_copy(update={"backend": None, "on_progress": None})
        return FunctionCallingLLM.__getstate__(travels)

    @property
    def metadata(self) -> LLMMetadata:
        """What prompts are fitted to; the model is loaded for it.

        `num_output` is what prompt helpers keep free: `max_tokens`, else 256 or a quarter of the
        context, and room for the self-evaluation's question.
        """
        model = self._loaded_model()
        context_window = model.engine.capabilities.context_length
        answer = self.max_tokens or min(DEFAULT_NUM_OUTPUTS, context_window // 4)
        return LLMMetadata(
            context_window=context_window,
            num_output=answer + len(model.evaluator.question_ids),
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """Return what events say of this LLM: no key, and nothing that loads the model."""
        set_ones = {name: value for name in CALL_NAMES if (value := getattr(self, name))}
        return {"class_name": self.class_name(), "model_name": self.model, **set_ones}

    def tokenize(self, text: str) -> list[int]:
        """Return the model's own tokens of a text, as LlamaIndex asks tokenizers for them.

        ``Settings.tokenizer = llm.tokenize`` makes prompt helpers and splitters count in them, and
        not in those of another model.
        """
        return list(self._loaded_model().chat.response_ids(text))

    # Answering.

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Args:
            messages: Its turns; the last one is answered.
            kwargs: Settings of this call.
        """
        answered = self._answered(self._request(messages, kwargs))
        return to_chat_response(answered.answer, best_of_n=answered.best_of_n)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation on the caller's event loop; as `chat`."""
        answered = await self._aanswered(self._request(messages, kwargs))
        return to_chat_response(answered.answer, best_of_n=answered.best_of_n)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, as a conversation of one turn.

        Args:
            prompt: The user's turn.
            formatted: Whether it has been through `completion_to_prompt`.
            kwargs: Settings of this call.
        """
        answered = self._answered(self._request(self._turn(prompt, formatted), kwargs))
        return to_completion_response(answered.answer, best_of_n=answered.best_of_n)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt on the caller's event loop; as `complete`."""
        answered = await self._aanswered(self._request(self._turn(prompt, formatted), kwargs))
        return to_completion_response(answered.answer, best_of_n=answered.best_of_n)

    # Streaming.

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation, and give the text as soon as it is certain which sample it is.

        Usage, `raw` and ``best_of_n`` stand on the last response alone.

        Args:
            messages: Its turns; the last one is answered.
            kwargs: Settings of this call.
        """
        request = self._request(messages, kwargs)
        return iterate_sync(self._chat_steps(self._loaded_model(), request))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation on the caller's event loop; as `stream_chat`."""
        request = self._request(messages, kwargs)
        return self._chat_steps(await self._aloaded_model(), request)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt; as `stream_chat`.

        Args:
            prompt: The user's turn.
            formatted: Whether it has been through `completion_to_prompt`.
            kwargs: Settings of this call.
        """
        request = self._request(self._turn(prompt, formatted), kwargs)
        return iterate_sync(self._completion_steps(self._loaded_model(), request))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt on the caller's event loop; as `stream_complete`."""
        request = self._request(self._turn(prompt, formatted), kwargs)
        return self._completion_steps(await self._aloaded_model(), request)

    # Tools come in a later release.

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        _refuse_tools()

    # What all of them do.

    def _turn(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        wrap = self.completion_to_prompt
        return [ChatMessage(prompt if formatted or wrap is None else wrap(prompt))]

    def _request(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> _Request:
        for keyword in _TOOL_KEYWORDS:
            if kwargs.get(keyword):
                _refuse_tools()
        own = {name: value for name, value in kwargs.items() if name not in _TOOL_KEYWORDS}
        return _Request(
            conversation=to_conversation(messages),
            call=self._checked_call({**settings_in_force(), **spell_out(own)}),
            collections=collections_in_force(),
        )

    def _answered(self, request: _Request) -> _Answered:
        # Not on the background loop: a server is connected to from there.
        model = self._loaded_model()
        return run_sync(self._answer(model, request))

    async def _aanswered(self, request: _Request) -> _Answered:
        return await self._answer(await self._aloaded_model(), request)

    async def _answer(self, model: SelfEvaluatingModel, request: _Request) -> _Answered:
        try:
            answer = await model.answer(
                request.conversation, model.settings(request.call.given), observer=self.on_progress
            )
        except NoFinishedSampleError as error:
            _collect_failure(request, model, error)
            raise
        return _answered(answer, model, request)

    async def _pieces(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[Piece, None]:
        settings = model.settings(request.call.given)
        text = ""
        try:
            async with aclosing(
                model.stream(request.conversation, settings, observer=self.on_progress)
            ) as items:
                async for item in items:
                    if isinstance(item, Answer):
                        done = _answered(item, model, request)
                        yield Piece(
                            delta="", text=text, answer=done.answer, best_of_n=done.best_of_n
                        )
                    else:
                        text += item
                        yield Piece(delta=item, text=text)
        except (NoFinishedSampleError, StreamBrokenError) as error:
            _collect_failure(request, model, error)
            raise

    async def _chat_steps(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[ChatResponse, None]:
        async with aclosing(self._pieces(model, request)) as pieces:
            async for piece in pieces:
                yield to_chat_step(piece)

    async def _completion_steps(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[CompletionResponse, None]:
        async with aclosing(self._pieces(model, request)) as pieces:
            async for piece in pieces:
                yield to_completion_step(piece)


def _refuse_tools() -> NoReturn:
    raise NotImplementedError(_NO_TOOLS)


def _answered(answer: Answer, model: SelfEvaluatingModel, request: _Request) -> _Answered:
    texts = sample_texts(answer, model) if request.call.include_samples else None
    facts = best_of_n(answer, texts=texts)
    call = CollectedCall(
        model=answer.model, text=answer.text, best_of_n=facts, usage=answer.outcome.usage
    )
    for collection in request.collections:
        collection.add(call)
    return _Answered(answer=answer, best_of_n=facts)


def _collect_failure(
    request: _Request,
    model: SelfEvaluatingModel,
    error: NoFinishedSampleError | StreamBrokenError,
) -> None:
    call = CollectedCall(
        model=model.name, text=None, best_of_n=None, usage=error.trace.usage, error=error
    )
    for collection in request.collections:
        collection.add(call)
