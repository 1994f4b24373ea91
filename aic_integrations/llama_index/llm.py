"""`AdaptiveLLM`: adaptive Best-of-N with self-evaluations behind LlamaIndex's LLM.

Importing it loads no weights and no torch; the model is loaded at the first call, or when its
`metadata` is asked for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode
from pydantic import ConfigDict, Field, SecretStr

from aic_integrations.llama_index.messages import (
    Piece,
    content,
    to_chat_response,
    to_chat_step,
    to_completion_response,
    to_completion_step,
    to_messages,
    tool_calls,
)
from aic_integrations.llama_index.scopes import (
    CollectedCall,
    Collection,
    collections_in_force,
    settings_in_force,
)
from selfeval_backend.adapter_fields import (
    CALL_NAMES,
    AdaptiveFields,
    Call,
    check_fields,
    check_names,
    spell_out,
    with_server,
)
from selfeval_backend.chat import FORM_KEYWORDS, AnswerForm, CheckedMessages, form_of
from selfeval_backend.errors import ConfigurationError, NoFinishedSampleError, StreamBrokenError
from selfeval_backend.generators import Owned
from selfeval_backend.model import Answer, ReasoningPiece, SelfEvaluatingModel
from selfeval_backend.sync import iterate_sync, run_sync

if TYPE_CHECKING:
    pass

__all__ = ["AdaptiveLLM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A call, checked as far as it can be without the model."""

    messages: CheckedMessages
    call: Call
    form: AnswerForm | None
    """What the answer must be; None: text."""
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

    A setting that is None is what the model was tuned for, else what its generation_config.json
    says, else the default of `selfeval_backend.settings.Settings`. Each may also be given for one
    call, ``llm.chat(messages, max_samples=4)``, or for all calls that an engine makes, with
    `aic_integrations.llama_index.best_of_n_settings`.

    A response's ``raw["usage"]`` counts everything that was paid for, and its
    ``additional_kwargs["best_of_n"]`` says how the answer was come by, in JSON types. What the
    model thought before it answered (see `reasoning_parser`) is a ThinkingBlock of the message.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
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
            is_function_calling_model=True,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """Return what events say of this LLM: no key, and nothing that loads the model."""
        set_ones = {name: value for name in CALL_NAMES if (value := getattr(self, name))}
        return {"class_name": self.class_name(), "model_name": self.model, **set_ones}

    def tokenize(self, text: str) -> list[int]:
        """Return the model's own tokens of a text, as LlamaIndex asks tokenizers for them.

        ``Settings.tokenizer = llm.tokenize`` makes prompt helpers and splitters count in them, and
        not in those of another model; so do ``TokenCountingHandler(tokenizer=llm.tokenize)`` and a
        memory with ``tokenizer_fn=llm.tokenize``. No weights are loaded for it.
        """
        return list(self._model_chat().response_ids(text))

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
        answered = self._answered(self._completion_request(prompt, formatted, kwargs))
        return to_completion_response(answered.answer, best_of_n=answered.best_of_n)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt on the caller's event loop; as `complete`."""
        answered = await self._aanswered(self._completion_request(prompt, formatted, kwargs))
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
        request = self._completion_request(prompt, formatted, kwargs)
        return iterate_sync(self._completion_steps(self._loaded_model(), request))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt on the caller's event loop; as `stream_complete`."""
        request = self._completion_request(prompt, formatted, kwargs)
        return self._completion_steps(await self._aloaded_model(), request)

    # Tools.

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the keyword arguments of `chat` that let it call tools.

        A call that is forced (`tool_required`, or a `tool_choice` that names a tool) is drawn under
        the grammar of the tools' arguments. Where the choice is the model's, samples are drawn
        freely and read (see `tool_parser`); one with a call that cannot be read is chosen only
        where there is no other.
        """
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        if not tools:
            return {"messages": messages, "tool_choice": tool_choice, **kwargs}
        return {
            "messages": messages,
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
            "tool_choice": tool_choice or ("required" if tool_required else "auto"),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls of tools in a response.

        Raises:
            ValueError: There is none, and that is to be an error.
        """
        calls = tool_calls(response.message)
        if not calls and error_on_no_tool_call:
            broken = response.message.additional_kwargs.get("invalid_tool_calls")
            reason = f"one that cannot be read: {broken[0]['error']}" if broken else "text alone"
            raise ValueError(f"The answer has no call of a tool, but {reason}.")
        return calls

    # LlamaIndex's own do not force the call in a stream, so it might be text.

    def _structured_stream_call(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        program = self._forcing_program(output_cls, prompt)
        return program.stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        program = self._forcing_program(output_cls, prompt)
        return await program.astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def _forcing_program(self, output_cls: type[Any], prompt: PromptTemplate) -> Any:
        if self.pydantic_program_mode not in (
            PydanticProgramMode.DEFAULT,
            PydanticProgramMode.FUNCTION,
        ):
            mode = self.pydantic_program_mode
            return get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=mode)
        return FunctionCallingProgram.from_defaults(
            output_cls=output_cls, prompt=prompt, llm=self, tool_choice="required"
        )

    # What all of them do.

    def _completion_request(
        self, prompt: str, formatted: bool, kwargs: Mapping[str, Any]
    ) -> _Request:
        if kwargs.get("tools"):
            raise ConfigurationError(
                "tools", kwargs["tools"], "none in a completion", remedy="Use chat_with_tools."
            )
        wrap = self.completion_to_prompt
        turn = ChatMessage(prompt if formatted or wrap is None else wrap(prompt))
        return self._request([turn], kwargs)

    def _request(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> _Request:
        asked = {name: kwargs[name] for name in FORM_KEYWORDS if name in kwargs}
        own = {name: value for name, value in kwargs.items() if name not in asked}
        return _Request(
            messages=to_messages(messages),
            call=self._checked_call({**settings_in_force(), **spell_out(own)}),
            form=form_of(asked),
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
                request.messages,
                model.settings(request.call.given),
                form=await self._read_by_parser(model, request.form),
                on_progress=self.on_progress,
            )
        except NoFinishedSampleError as error:
            _collect_failure(request, model, error)
            raise
        return _answered(answer, model, request)

    async def _pieces(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[Piece, None]:
        settings = model.settings(request.call.given)
        form = await self._read_by_parser(model, request.form)
        text = thinking = ""
        try:
            async with Owned(
                model.stream(request.messages, settings, form=form, on_progress=self.on_progress)
            ) as items:
                async for item in items:
                    if isinstance(item, Answer):
                        done = _answered(item, model, request)
                        whole = content(item)
                        yield Piece(
                            # Of an answer with a form nothing was told before.
                            delta=whole[len(text) :],
                            text=whole,
                            thinking=thinking,
                            answer=done.answer,
                            best_of_n=done.best_of_n,
                        )
                    elif isinstance(item, ReasoningPiece):
                        thinking += item
                        new = str(item)  # and nothing of our own in what is handed out
                        yield Piece(delta="", text=text, thinking_delta=new, thinking=thinking)
                    else:
                        text += item
                        yield Piece(delta=item, text=text, thinking=thinking)
        except (NoFinishedSampleError, StreamBrokenError) as error:
            _collect_failure(request, model, error)
            raise

    async def _chat_steps(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[ChatResponse, None]:
        async with Owned(self._pieces(model, request)) as pieces:
            async for piece in pieces:
                yield to_chat_step(piece)

    async def _completion_steps(
        self, model: SelfEvaluatingModel, request: _Request
    ) -> AsyncGenerator[CompletionResponse, None]:
        async with Owned(self._pieces(model, request)) as pieces:
            async for piece in pieces:
                if not piece.thinking_delta:  # of which a completion shows nothing
                    yield to_completion_step(piece)


def _answered(answer: Answer, model: SelfEvaluatingModel, request: _Request) -> _Answered:
    facts = answer.summary(texts=request.call.texts(model, answer))
    thought = answer.parsed is not None and answer.parsed.reasoning is not None
    call = CollectedCall(
        model=answer.model,
        text=content(answer) if thought else answer.text,
        best_of_n=facts,
        usage=answer.outcome.usage,
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
