"""`ConfidenceGateChatModel`: a chat model that shows an answer only once it has passed its gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import BaseModel, ConfigDict

from aic_integrations.langchain.gate.run import (
    REFUSAL,
    GateRun,
    GateSettings,
    check_no_interrupt,
)
from aic_integrations.langchain.messages import last_chunk
from aic_integrations.langchain.structured import Method, Tool, check_method, forced_call
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.gate import GateAction, GatePolicy
from selfeval_backend.types import to_json

__all__ = ["ConfidenceGateChatModel"]

Model = Runnable[LanguageModelInput, AIMessage]

_SETTINGS = tuple(GateSettings.__annotations__)

_TRACED = ("ls_structured_output_format",)
"""Keywords that LangChain removes from a call before the model gets it."""


class ConfidenceGateChatModel(BaseChatModel):
    """A chat model behind a gate that is itself a chat model, wherever one goes.

    ::

        gated = ConfidenceGateChatModel(llm, threshold=0.8, on_low=("retry", "refuse"))
        agent = create_agent(gated, tools)
        for chunk, _ in agent.stream(question, stream_mode="messages"): ...

    Its call is one run for callbacks and traces, and its attempts are none: no handler sees a token
    of an answer that did not pass, whatever it listens to, and none counts a token twice. A stream
    gives an answer whole, on one chunk, once it has passed.

    The message that comes out counts the tokens of all attempts in its ``usage_metadata``; what was
    decided, and what each attempt paid for, stands in ``response_metadata["confidence_gate"]``
    (`gate_records` reads it).

    The models behind it keep their own cache and rate limit. Callbacks and tags are the gate's:
    theirs are not asked.

    Raises:
        ConfigurationError: A setting is out of its range; something else is given for a chat model;
            or "interrupt" is asked for, which needs a graph (see `ConfidenceGate` and
            `ConfidenceGateNode`).
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    llm: Model
    """The chat model, or one with settings or tools bound to it."""
    stronger: tuple[Model, ...] = ()
    """What "escalate" asks, one after another; one model is a list of one."""
    refusal: str = REFUSAL
    """The text of a refusal."""
    threshold: float
    """This and the next six: of `selfeval_backend.gate.GatePolicy`."""
    on_low: GateAction | Sequence[GateAction] = ("retry", "raise")
    """Steps for a confidence below the threshold, from left to right."""
    on_missing: GateAction | Sequence[GateAction] = "raise"
    """Steps for an answer without a confidence."""
    on_uncalibrated: GateAction | Literal["compare"] | Sequence[GateAction] = "raise"
    """Steps for a confidence that is not calibrated; "compare": compare it anyway."""
    max_retries: int = 1
    """How often one "retry" tries again."""
    retry_samples: int | None = None
    """Most samples of a retry; None: twice those of the last attempt."""
    trust_stronger: bool = False
    """Whether a stronger model passes without a confidence."""

    if TYPE_CHECKING:

        def __init__(
            self,
            llm: Model,
            *,
            stronger: Model | Sequence[Model] = (),
            refusal: str = REFUSAL,
            **settings: Unpack[GateSettings],
        ) -> None: ...
    else:

        def __init__(self, llm=None, **values: Any) -> None:
            # Here and not in a validator: pydantic would wrap our error into its own.
            stronger = values.pop("stronger", ())
            stronger = (stronger,) if isinstance(stronger, Runnable) else tuple(stronger)
            _check(llm, stronger, values)
            super().__init__(**{"cache": False, **values, "llm": llm, "stronger": stronger})

    @property
    def policy(self) -> GatePolicy:
        """What passes, and what is done with what does not."""
        return _policy({name: getattr(self, name) for name in _SETTINGS}, self.stronger)

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        quiet = None if run_manager is None else _quiet(_QuietRun, run_manager)

        def ask(level: int, settings: Mapping[str, Any]) -> AIMessage:
            model, given = self._asked(level, {"stop": stop}, kwargs, settings)
            return _message(model._generate_with_cache(messages, run_manager=quiet, **given))

        return _result(GateRun(self.policy, self.refusal).answer(ask))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        quiet = None if run_manager is None else _quiet(_AsyncQuietRun, run_manager)

        async def ask(level: int, settings: Mapping[str, Any]) -> AIMessage:
            model, given = self._asked(level, {"stop": stop}, kwargs, settings)
            return _message(await model._agenerate_with_cache(messages, run_manager=quiet, **given))

        return _result(await GateRun(self.policy, self.refusal).aanswer(ask))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunk = _whole(self._generate(messages, stop, run_manager, **kwargs))
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
        chunk = _whole(await self._agenerate(messages, stop, run_manager, **kwargs))
        if run_manager is not None:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _asked(
        self, level: int, *layers: Mapping[str, Any]
    ) -> tuple[BaseChatModel, dict[str, Any]]:
        """Return the model of a level, and keywords of its call, later layers over earlier ones."""
        model, given = _unbound((self.llm, *self.stronger)[level])
        for layer in layers:
            given.update({k: v for k, v in layer.items() if k != "stop" or v is not None})
        return model, {k: v for k, v in given.items() if k not in ("stream", *_TRACED)}

    # What an answer must be.

    def bind_tools(
        self, tools: Sequence[Tool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the gate with tools that each of its models may call, bound in its own way.

        Args:
            tools: As the models take them.
            kwargs: The models' own; `tool_choice` among them.
        """
        traced = {name: kwargs.pop(name) for name in _TRACED if name in kwargs}
        bind = partial(_with_tools, tools=tools, given=kwargs)
        gated = self.model_copy(
            update={"llm": bind(self.llm), "stronger": tuple(map(bind, self.stronger))}
        )
        return gated.bind(**traced)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the gate with answers of a schema: arguments of a call that is forced.

        An answer without such a call, and a refusal, is an OutputParserException.

        Args:
            schema: A pydantic class, of which answers are instances; else they are dicts.
            include_raw: Return a dict of `raw`, the message, `parsed`, and `parsing_error`.
            method: Ignored: only a forced call works with all chat models.
            kwargs: For the models' `bind_tools`.

        Raises:
            ConfigurationError: The schema is none, or the method is unknown.
        """
        check_method(method)
        return forced_call(self.bind_tools, schema, include_raw=include_raw, **kwargs)

    # Counting: what its first model says, with the tools that are bound to it.

    def get_token_ids(self, text: str) -> list[int]:
        """Return the first model's tokens of a text, or what `custom_get_token_ids` says of it."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return _unbound(self.llm)[0].get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Return how many tokens a text has by the first model's count."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return _unbound(self.llm)[0].get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Tool] | None = None
    ) -> int:
        """Return how many tokens messages take in a prompt of the first model.

        Args:
            messages: As the model counts them.
            tools: Shown with them; None: those that are bound to the model.
        """
        model, given = _unbound(self.llm)
        return model.get_num_tokens_from_messages(
            messages, given.get("tools") if tools is None else tools
        )

    # What LangChain asks for tracing.

    @property
    def _llm_type(self) -> str:
        return "confidence-gate"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "models": [_unbound(each)[0].asdict() for each in (self.llm, *self.stronger)],
            **to_json(self.policy),
        }

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # Tools among them, as a trace of a model shows them.
        return super()._get_invocation_params(stop, **{**_unbound(self.llm)[1], **kwargs})

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        model, given = _unbound(self.llm)
        return model._get_ls_params(**{**given, "stop": stop or given.get("stop"), **kwargs})

    def _resolve_model_profile(self) -> Any:
        return _unbound(self.llm)[0].profile


class _QuietRun(CallbackManagerForLLMRun):
    """The gate's run for an attempt: reports what happens, but no token."""

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Tell nobody."""

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Tell nobody."""


class _AsyncQuietRun(AsyncCallbackManagerForLLMRun):
    """The same on the caller's event loop."""

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Tell nobody."""

    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Tell nobody."""

    def get_sync(self) -> CallbackManagerForLLMRun:
        """Return the same for a model that answers in a thread."""
        return _quiet(_QuietRun, self)


_Run = TypeVar("_Run", _QuietRun, _AsyncQuietRun)


def _quiet(kind: type[_Run], run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun) -> _Run:
    return kind(
        run_id=run.run_id,
        handlers=run.handlers,
        inheritable_handlers=run.inheritable_handlers,
        parent_run_id=run.parent_run_id,
        tags=run.tags,
        inheritable_tags=run.inheritable_tags,
        metadata=run.metadata,
        inheritable_metadata=run.inheritable_metadata,
    )


def _message(result: ChatResult) -> AIMessage:
    message = result.generations[0].message
    if not isinstance(message, AIMessage):
        raise ConfigurationError(
            "llm", type(message).__name__, "a model that answers with an AIMessage"
        )
    return message


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _whole(result: ChatResult) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=last_chunk(_message(result), shown=""))


def _unbound(model: Any) -> tuple[BaseChatModel, dict[str, Any]]:
    """Return a chat model without what is bound to it, and what is bound."""
    given: dict[str, Any] = {}
    while isinstance(model, RunnableBinding):
        given = {**model.kwargs, **given}
        model = model.bound
    return model, given


def _with_tools(model: Any, *, tools: Sequence[Tool], given: Mapping[str, Any]) -> Any:
    bare, bound = _unbound(model)
    with_tools = bare.bind_tools(tools, **given)
    _check_model("llm.bind_tools()", with_tools)
    return with_tools.bind(**bound) if bound else with_tools


def _policy(settings: Mapping[str, Any], stronger: Sequence[Any]) -> GatePolicy:
    return GatePolicy(**settings, num_stronger=len(stronger))


def _check(llm: object, stronger: Sequence[object], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in ConfidenceGateChatModel.model_fields:
            known = ", ".join(sorted(("stronger", "refusal", *_SETTINGS)))
            raise ConfigurationError(name, value, f"one of the names {known}")
    _check_model("llm", llm)
    for model in stronger:
        _check_model("stronger", model)
    settings = {name: values[name] for name in _SETTINGS if name in values}
    check_no_interrupt(_policy({"threshold": None, **settings}, stronger))
    if values.get("cache"):
        raise ConfigurationError(
            "cache", values["cache"], "none", remedy="Give it to the models: attempts are cached."
        )


def _check_model(field: str, model: object) -> None:
    inner, has_config = model, False
    while isinstance(inner, RunnableBinding):
        has_config = has_config or any(inner.config.values()) or bool(inner.config_factories)
        inner = inner.bound
    if not isinstance(inner, BaseChatModel) or has_config:
        raise ConfigurationError(
            field,
            type(inner).__name__ if not has_config else "a model with a config",
            "a chat model, or one with settings bound to it",
            remedy="Wrap the gate, not its models: gate.with_config(), gate.with_retry().",
        )
