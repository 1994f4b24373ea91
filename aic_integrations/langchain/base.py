"""What the chat model and the completion model share: fields, settings of a call, the model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, get_args

from langchain_core.exceptions import ContextOverflowError
from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict, Field, SecretStr

from aic_integrations.langchain.progress import RunManager, progress_reported
from selfeval_backend.chat import Message
from selfeval_backend.errors import ConfigurationError, ContextLengthError
from selfeval_backend.model import (
    Answer,
    EngineName,
    SelfEvaluatingModel,
    Server,
    shared_model,
)
from selfeval_backend.settings import Settings, resolve_settings
from selfeval_backend.types import TraceEvent

__all__ = ["AdaptiveContextOverflowError", "AdaptiveModel", "Request", "context_overflow", "texts"]

_SETTINGS = tuple(field.name for field in fields(Settings))
_CALL_FIELDS = (*_SETTINGS, "include_samples")
_IDENTITY = ("model", "engine", "engine_args", "base_url", "checkpoint", *_CALL_FIELDS)


class AdaptiveContextOverflowError(ContextLengthError, ContextOverflowError):
    """A prompt that does not fit, as this project's error and as LangChain's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call, checked as far as it can be without the model."""

    conversation: tuple[Message, ...]
    given: Mapping[str, Any]
    include_samples: bool


class AdaptiveModel(Serializable):
    """The fields of a model that answers with adaptive Best-of-N, whatever LangChain calls it.

    A setting that is None is what the model was tuned for, else the default of
    `selfeval_backend.settings.Settings`. Each may also be given for one call.

    What is not given is taken from the environment, where it is set: AIC_MODEL, AIC_API_KEY, and
    AIC_BASE_URL (several with commas) unless an engine is named or a loaded model given.

    Raises:
        ConfigurationError: A value is out of its range, or a name is unknown.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    call_keywords: ClassVar[tuple[str, ...]] = _CALL_FIELDS
    """What may be given for one call."""

    model: str = Field(default_factory=lambda: os.environ.get("AIC_MODEL") or "reference")
    """"reference", a checkpoint folder, or a model name that transformers can resolve."""
    engine: str | None = None
    """"vllm" or "transformers"; None: vLLM where it is installed and a GPU is there."""
    engine_args: dict[str, Any] | None = None
    """For vLLM alone: keyword arguments of `vllm.EngineArgs`, such as tensor_parallel_size."""
    base_url: str | tuple[str, ...] | None = None
    """A running vLLM server, up to and with the version: ``http://host:8000/v1``. `model` is then
    the name it is served under. Several URLs are replicas of one model."""
    api_key: SecretStr | None = Field(
        default_factory=lambda: SecretStr(key) if (key := os.environ.get("AIC_API_KEY")) else None,
        repr=False,
    )
    """For the server; None: the variable AIC_API_KEY, if it is set."""
    checkpoint: str | None = None
    """Where the tokenizer and the selfeval.json of a server's model are found: a folder or a model
    name; None: `model` says it."""
    max_retries: int | None = None
    """Times that a request to the server is sent again that failed before any token came; None:
    twice."""
    verify: bool | str = True
    """Of a server: False: certificates are not checked; a path: a bundle of authorities."""
    max_samples: int | None = None
    """At least 1."""
    adaptive: bool | None = None
    """Draw in growing batches and stop at `threshold`; False: all samples at once."""
    threshold: float | None = None
    """In [0, 1]: stop once a finished sample has this prob_win_or_tie."""
    batches: tuple[int, ...] | None = None
    """Cumulative sample counts, ascending."""
    temperature: float | None = None
    """In [0, 2]: where annealing leads to."""
    annealing: str | tuple[float, ...] | None = None
    """"annealed", "constant", or one temperature for each sample."""
    top_p: float | None = None
    """In (0, 1]."""
    max_tokens: int | None = None
    """Of one sample."""
    stop: tuple[str, ...] | None = None
    """Strings that end a sample; they never stand in the answer. One string is a list of one."""
    prune_at: tuple[int, ...] | None = None
    """Checkpoints in generated tokens, ascending; one number is a list of one; empty: none."""
    keep_fraction: float | tuple[float, ...] | None = None
    """In (0, 1]: share of a batch that goes on past a checkpoint; one, or one for each."""
    prune_below: float | tuple[float, ...] | None = None
    """In [0, 1]: samples with a lower prob_win_or_tie stop there; one, or one for each."""
    accept_above: float | tuple[float, ...] | None = None
    """In [0, 1]: the best sample with at least this prob_win_or_tie at a checkpoint is the answer,
    and a stream flows from there; one, or one for each."""
    max_total_tokens: int | None = None
    """Of one call: prompts, generated and self-evaluation tokens."""
    max_seconds: float | None = None
    """Of one call; also spelled `timeout`. It ends with the best sample that has finished."""
    seed: int | None = None
    """None: a new one for each call."""
    include_samples: bool = False
    """Whether ``best_of_n["texts"]`` holds the texts of all samples."""
    on_progress: Callable[[TraceEvent], None] | None = Field(default=None, exclude=True, repr=False)
    """Told of every decision once it has been carried out, on the event loop that answers (of a
    synchronous call: another thread). What it raises ends the call."""
    backend: SelfEvaluatingModel | None = Field(default=None, exclude=True, repr=False)
    """A loaded model; see `from_model`."""

    if not TYPE_CHECKING:  # checkers take the signature from the fields

        def __init__(self, **values: Any) -> None:
            # Here and not in a validator: pydantic would wrap our error into its own.
            values = _with_server(type(self)._spelled_out(values))
            _check_names(values, allowed=type(self).model_fields)
            _check_construction(values)
            super().__init__(**values)

    @classmethod
    def from_model(cls, model: SelfEvaluatingModel, **settings: Any) -> Self:
        """Return one on a loaded model, for example one with a scripted engine.

        It is not serialized with it: what is loaded again from JSON looks `model.name` up.

        Args:
            model: Shared, not copied; whoever made it closes it.
            settings: Fields.

        Raises:
            ConfigurationError: A value is out of its range, or a name is unknown.
        """
        return cls(model=model.name, backend=model, **settings)

    @classmethod
    def _spelled_out(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments under the names of fields."""
        spelled = dict(values)
        if "timeout" in spelled:
            timeout = spelled.pop("timeout")
            if spelled.get("max_seconds") is not None and timeout is not None:
                raise ConfigurationError("timeout", timeout, "nothing beside max_seconds")
            spelled["max_seconds"] = timeout if timeout is not None else spelled.get("max_seconds")
        if isinstance(spelled.get("stop"), str):
            spelled["stop"] = (spelled["stop"],)
        if isinstance(spelled.get("base_url"), list):
            spelled["base_url"] = tuple(spelled["base_url"])
        if isinstance(spelled.get("prune_at"), int) and not isinstance(spelled["prune_at"], bool):
            spelled["prune_at"] = (spelled["prune_at"],)
        return {
            k: tuple(v) if isinstance(v, list) and k in _SETTINGS else v for k, v in spelled.items()
        }

    def _request(
        self,
        conversation: Callable[[], tuple[Message, ...]],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
    ) -> Request:
        """Check a call: first its keywords, then what it asks."""
        overrides = self._spelled_out({**kwargs, "stop": stop or kwargs.get("stop")})
        _check_names(overrides, allowed=self.call_keywords)
        include_samples = overrides.pop("include_samples", None)
        _check_bool("include_samples", include_samples)
        own = {name: getattr(self, name) for name in _SETTINGS}
        chosen = {name: value for name, value in overrides.items() if value is not None}
        given = _settings_given({**own, **chosen})
        return Request(
            conversation=conversation(),
            given=given,
            include_samples=self.include_samples if include_samples is None else include_samples,
        )

    def _loaded_model(self) -> SelfEvaluatingModel:
        if self.backend is not None:
            return self.backend
        return shared_model(
            self.model,
            engine=cast(EngineName | None, self.engine),
            engine_args=self.engine_args,
            server=self._server(),
            checkpoint=self.checkpoint,
        )

    async def _aloaded_model(self) -> SelfEvaluatingModel:
        # Reading weights takes seconds, and must not hold up the caller's loop.
        return await asyncio.to_thread(self._loaded_model) if self.backend is None else self.backend

    async def _answered(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> Answer:
        try:
            async with progress_reported(run_manager, self.on_progress) as progress:
                return await model.answer(
                    request.conversation,
                    model.settings(request.given),
                    observer=progress.observer,
                )
        except ContextLengthError as error:
            raise context_overflow(error) from error

    async def _streamed(
        self, model: SelfEvaluatingModel, request: Request, run_manager: RunManager | None
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield the pieces of the text, then the answer."""
        try:
            async with (
                progress_reported(run_manager, self.on_progress) as progress,
                aclosing(
                    model.stream(
                        request.conversation,
                        model.settings(request.given),
                        observer=progress.observer,
                    )
                ) as items,
            ):
                async for item in items:
                    await progress.tell()
                    yield item
        except ContextLengthError as error:
            raise context_overflow(error) from error

    def _server(self) -> Server | None:
        if self.base_url is None:
            return None
        key = None if self.api_key is None else self.api_key.get_secret_value()
        server = Server(base_url=self.base_url, api_key=key, verify=self.verify)
        return server if self.max_retries is None else replace(server, max_retries=self.max_retries)

    # What LangChain asks for tracing, caching and serialization.

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _IDENTITY}

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


def texts(answer: Answer, model: SelfEvaluatingModel) -> list[str]:
    """Return the texts of all samples, in order of drawing."""
    return [model.text(sample, answer.settings) for sample in answer.outcome.samples]


def context_overflow(error: ContextLengthError) -> AdaptiveContextOverflowError:
    """Return the same error as one that LangChain knows too."""
    return AdaptiveContextOverflowError(
        num_prompt_tokens=error.num_prompt_tokens,
        num_reserved_tokens=error.num_reserved_tokens,
        context_length=error.context_length,
    )


def _with_server(values: dict[str, Any]) -> dict[str, Any]:
    """Add the servers of the environment, where nothing says where the model runs."""
    urls = tuple(filter(None, os.environ.get("AIC_BASE_URL", "").split(",")))
    if not urls or {"base_url", "engine", "engine_args", "backend"} & set(values):
        return values
    return {**values, "base_url": urls[0] if len(urls) == 1 else urls}


def _settings_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among `values` that are set, checked as far as no model is needed."""
    given = {name: values[name] for name in _SETTINGS if values.get(name) is not None}
    resolve_settings(given, {})
    return given


def _check_names(values: Mapping[str, Any], *, allowed: Collection[str]) -> None:
    for name, value in values.items():
        if name not in allowed:
            known = sorted(set(allowed) & {*_IDENTITY, "on_progress"})
            raise ConfigurationError(name, value, f"one of the names {', '.join(known)}")


def _check_bool(name: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(name, value, "True or False")


def _check_construction(values: dict[str, Any]) -> None:
    """Check what pydantic would not, or would report as an error of its own."""
    if isinstance(values.get("model"), Path):
        values["model"] = str(values["model"])
    model = values.get("model", "unset")
    if not isinstance(model, str) or not model.strip():
        raise ConfigurationError("model", model, '"reference", a folder or a model name')
    engine = values.get("engine")
    if engine is not None and engine not in get_args(EngineName):
        raise ConfigurationError("engine", engine, f"one of {', '.join(get_args(EngineName))}")
    engine_args = values.get("engine_args")
    if engine_args is not None and not isinstance(engine_args, dict):
        raise ConfigurationError("engine_args", engine_args, "a dict of vLLM's engine arguments")
    _check_bool("include_samples", values.get("include_samples", False))
    on_progress = values.get("on_progress")
    if on_progress is not None and not callable(on_progress):
        raise ConfigurationError("on_progress", on_progress, "a function of one TraceEvent")
    _settings_given(values)
