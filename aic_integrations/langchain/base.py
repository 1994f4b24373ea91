"""What the chat model and the completion model share: fields, settings of a call, the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from langchain_core.exceptions import ContextOverflowError
from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage

from aic_integrations.langchain.messages import to_turns
from aic_integrations.langchain.progress import RunManager, progress_reported
from aic_integrations.langchain.sample_runs import tell_samples
from aic_integrations.langchain.structured import Tool, openai_tools
from selfeval_backend.adapter_fields import (
    CALL_NAMES,
    IDENTITY_NAMES,
    AdaptiveFields,
    Call,
    check_fields,
    check_names,
    spell_out,
    with_server,
)
from selfeval_backend.chat import AnswerForm, CheckedMessages, tool_specs
from selfeval_backend.errors import ConfigurationError, ContextLengthError
from selfeval_backend.generators import Owned
from selfeval_backend.model import Answer, SelfEvaluatingModel

__all__ = ["AdaptiveContextOverflowError", "AdaptiveModel", "Request", "context_overflow"]


class AdaptiveContextOverflowError(ContextLengthError, ContextOverflowError):
    """A prompt that does not fit, as this project's error and as LangChain's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call, checked as far as it can be without the model."""

    messages: CheckedMessages
    call: Call
    form: AnswerForm | None = None
    """What the answer must be; None: text."""


class AdaptiveModel(AdaptiveFields, Serializable):
    """The fields of a model that answers with adaptive Best-of-N, whatever LangChain calls it.

    A setting that is None is what the model was tuned for, else what its generation_config.json
    says, else the default of `selfeval_backend.settings.Settings`. Each may also be given for one
    call.

    What is not given is taken from the environment, where it is set: AIC_MODEL, AIC_API_KEY, and
    AIC_BASE_URL (several with commas) unless an engine is named or a loaded model given.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
    """

    trace_samples: bool = False
    """Whether tracers are told of each sample as of a child run of the model's: how it was drawn,
    what it cost and what became of it; its text with `include_samples`."""

    call_keywords: ClassVar[tuple[str, ...]] = CALL_NAMES
    """What may be given for one call."""

    if not TYPE_CHECKING:  # checkers take the signature from the fields

        def __init__(self, **values: Any) -> None:
            # Here and not in a validator: pydantic would wrap our error into its own.
            values = with_server(type(self)._spelled_out(values))
            check_names(values, allowed=type(self).model_fields)
            check_fields(values)
            if not isinstance(values.get("trace_samples", False), bool):
                raise ConfigurationError("trace_samples", values["trace_samples"], "True or False")
            super().__init__(**values)

    @classmethod
    def from_model(cls, model: SelfEvaluatingModel, **settings: Any) -> Self:
        """Return one on a loaded model, for example one with a scripted engine.

        It is neither serialized nor pickled with it: what is read back looks `model.name` up.

        Args:
            model: Shared, not copied; whoever made it closes it.
            settings: Fields.

        Raises:
            ConfigurationError: A value is out of its range, or a name is unknown.
        """
        return cls(model=model.name, backend=model, **settings)

    def __getstate__(self) -> dict[str, Any]:
        # As where it is read back from JSON: there the model is looked up by its name.
        travels = self.model_copy(update={"backend": None, "on_progress": None})
        return Serializable.__getstate__(travels)

    @classmethod
    def _spelled_out(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments under the names of fields."""
        return spell_out(values)

    def _request(
        self,
        messages: Callable[[], CheckedMessages],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
    ) -> Request:
        """Check a call: first its keywords, then what it asks."""
        overrides = self._spelled_out({**kwargs, "stop": stop or kwargs.get("stop")})
        call = self._checked_call(overrides, allowed=self.call_keywords)
        return Request(messages=messages(), call=call)

    async def _answered(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> Answer:
        try:
            async with progress_reported(run_manager, self.on_progress) as progress:
                answer = await model.answer(
                    request.messages,
                    model.settings(request.call.given),
                    form=await self._read_by_parser(model, request.form),
                    on_progress=progress.on_progress,
                )
            await self._tell_samples(model, request, run_manager, answer)
            return answer
        except ContextLengthError as error:
            raise context_overflow(error) from error

    async def _streamed(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield the pieces of the text, then the answer."""
        try:
            form = await self._read_by_parser(model, request.form)
            async with (
                progress_reported(run_manager, self.on_progress) as progress,
                Owned(
                    model.stream(
                        request.messages,
                        model.settings(request.call.given),
                        form=form,
                        on_progress=progress.on_progress,
                    )
                ) as items,
            ):
                async for item in items:
                    await progress.tell()
                    if isinstance(item, Answer):
                        await self._tell_samples(model, request, run_manager, item)
                    yield item
        except ContextLengthError as error:
            raise context_overflow(error) from error

    async def _tell_samples(
        self,
        model: SelfEvaluatingModel,
        request: Request,
        run_manager: RunManager | None,
        answer: Answer,
    ) -> None:
        if self.trace_samples:
            await tell_samples(run_manager, answer, request.call.texts(model, answer))

    # Counting: in the model's own tokens, which needs its tokenizer and not its weights.

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's own tokens of a text, or what `custom_get_token_ids` says of it."""
        custom: Callable[[str], list[int]] | None = getattr(self, "custom_get_token_ids", None)
        return list(self._model_chat().response_ids(text)) if custom is None else custom(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Tool] | None = None
    ) -> int:
        """Return how many tokens messages take in a prompt, as the model's template writes them.

        What opens the answer's turn is among them. No messages take none.

        Args:
            messages: The whole of a conversation, or a part: it need not end with a question.
            tools: Shown to the model with them.

        Raises:
            ConfigurationError: A message or a tool cannot be read.
        """
        return self._model_chat().num_tokens(
            to_turns(messages), tool_specs(openai_tools(tools or ()))
        )

    # What LangChain asks for tracing, caching and serialization.

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in IDENTITY_NAMES}

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The variable that stands in for the key where a model is serialized."""
        return {"api_key": "AIC_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: every setting is in its JSON, `on_progress` and `backend` are not."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return the public import path, which stays when files move."""
        return ["aic_integrations", "langchain"]


def context_overflow(error: ContextLengthError) -> AdaptiveContextOverflowError:
    """Return the same error as one that LangChain knows too."""
    return AdaptiveContextOverflowError(
        num_prompt_tokens=error.num_prompt_tokens,
        num_reserved_tokens=error.num_reserved_tokens,
        context_length=error.context_length,
    )
