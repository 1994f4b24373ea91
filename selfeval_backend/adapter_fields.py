"""The fields that a user sets on an adapter: checked, of a call too, and the model that they name.

The frameworks differ in messages, callbacks and results; what a user may set, how a value is spelt
and how a model is opened are the same in all of them, and stand here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from selfeval_backend.chat import AnswerForm, Chat, ChatTemplate, ReasoningForm, ToolForm
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import (
    Answer,
    EngineName,
    ModelSource,
    SelfEvaluatingModel,
    Server,
    ashared_model,
    locate_model_files,
    shared_model,
)
from selfeval_backend.settings import SETTING_NAMES, lay_over
from selfeval_backend.types import TraceEvent
from selfeval_backend.web import check_key, check_url

__all__ = [
    "CALL_NAMES",
    "IDENTITY_NAMES",
    "AdaptiveFields",
    "Call",
    "check_fields",
    "check_names",
    "spell_out",
    "with_server",
]

CALL_NAMES = (*SETTING_NAMES, "include_samples")
"""Fields that may be given for one call too."""

IDENTITY_NAMES = (
    *("model", "engine", "engine_args", "base_url", "model_files"),
    *("tool_parser", "reasoning_parser"),
    *CALL_NAMES,
)
"""Fields that say what an answer may be: the same values, the same answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked for by one call, checked as far as it can be without the model."""

    given: Mapping[str, Any]
    """Settings by name; what is not given is the model's own, else the default."""
    include_samples: bool
    """Whether the texts of all samples are wanted."""

    def texts(self, model: SelfEvaluatingModel, answer: Answer) -> list[str] | None:
        """Return the texts of all samples, in order of drawing; None: they are not wanted."""
        return model.texts(answer) if self.include_samples else None


class AdaptiveFields(BaseModel):
    """The fields that a user sets on an adapter, whatever its framework.

    A setting that is None is what the model was tuned for, else what its generation_config.json
    says, else the default of `selfeval_backend.settings.Settings`.

    What is not given is taken from the environment, where it is set: AIC_MODEL, AIC_API_KEY, and
    AIC_BASE_URL (see `with_server`).
    """

    # What is hidden is hidden in pydantic's errors too, which show what they were given.
    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    model: str = Field(default_factory=lambda: os.environ.get("AIC_MODEL") or "reference")
    """A name that `aic models` lists, a model folder, or a model of the hub."""
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
    model_files: str | None = None
    """Where the tokenizer, the selfeval.json and the generation_config.json of a server's model are
    found: a folder or a model name; None: `model` says it."""
    max_retries: int | None = None
    """Times that a request to the server is sent again that failed before any token came; None:
    twice."""
    verify: bool | str = True
    """Of a server: False: certificates are not checked; a path: a bundle of authorities."""
    tool_parser: str | None = None
    """What reads calls where the model is free to call. None: the tokenizer's `response_template`
    if it has one, else what reads a call as its chat template writes it, and plain JSON in either
    case. "json": plain JSON alone. Else one of vLLM's, as in its ``--tool-call-parser`` ("hermes",
    "llama3_json", ...); the common ones are read without vLLM too."""
    reasoning_parser: str | None = None
    """What tells the reasoning from the answer, of a model that thinks first: it is then no part of
    the answer's text, and stands beside it. None: as the tokenizer or the chat template says, if
    one does. "none": all is the answer. "think": ``<think>...</think>``. Else one of vLLM's, as in
    its ``--reasoning-parser`` ("qwen3", "deepseek_r1", ...)."""
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
    """In (0, 1]: draw from the fewest tokens that have at least this probability together."""
    top_k: int | None = None
    """At least 0: draw from this many of the likeliest tokens; 0: from all."""
    min_p: float | None = None
    """In [0, 1]: draw from tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Above 0: tokens of prompt and sample become less likely above 1, more likely below."""
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
    synchronous call: another thread), which waits for it. It may call models, this one among them.
    What it raises ends the call."""
    backend: SelfEvaluatingModel | None = Field(default=None, exclude=True, repr=False)
    """A loaded model; the adapter's `from_model` sets it."""

    def _checked_call(
        self, overrides: Mapping[str, Any], *, allowed: Collection[str] = CALL_NAMES
    ) -> Call:
        """Lay what one call gives over the fields.

        Args:
            overrides: They have been through `spell_out`.
            allowed: Names that it may give.

        Raises:
            ConfigurationError: A value is out of its range, or a name is unknown.
        """
        check_names(overrides, allowed=allowed)
        include_samples = overrides.get("include_samples")
        _check_bool("include_samples", include_samples)
        own = _settings_among({name: getattr(self, name) for name in SETTING_NAMES})
        chosen = _settings_among(overrides)
        if chosen:  # the fields were checked when they were set
            lay_over({**own, **chosen}, {})
        return Call(
            given={**own, **chosen},
            include_samples=self.include_samples if include_samples is None else include_samples,
        )

    def _loaded_model(self) -> SelfEvaluatingModel:
        """Return the backend, else the process's one copy of the model, loaded at first."""
        return shared_model(self._source()) if self.backend is None else self.backend

    async def _aloaded_model(self) -> SelfEvaluatingModel:
        """Do what `_loaded_model` does without holding up the caller's loop."""
        return await ashared_model(self._source()) if self.backend is None else self.backend

    def _source(self) -> ModelSource:
        return ModelSource(
            model=self.model,
            engine=cast(EngineName | None, self.engine),
            engine_args=self.engine_args,
            server=self._server(),
            model_files=self.model_files,
        )

    def _model_chat(self) -> Chat:
        """Return the model's tokenizer and chat template; neither weights nor a server."""
        if self.backend is not None:
            return self.backend.chat
        return _chat_of(self.model_files or self.model)

    async def _read_by_parser(
        self, model: SelfEvaluatingModel, form: AnswerForm | None
    ) -> AnswerForm | None:
        """Return a form whose calls and whose reasoning are read by the parsers that are set.

        Those that are not set are found, once for each model.

        Raises:
            ConfigurationError: One cannot be used, or has to be set.
            MissingDependencyError: One is vLLM's, which is not installed.
        """
        # The first time chat templates are tried, or vLLM is imported, which takes seconds.
        free = isinstance(form, ToolForm) and form.choice == "auto"
        if isinstance(form, ToolForm) and (free or self.tool_parser is not None):
            calls = await asyncio.to_thread(model.tool_parser, self.tool_parser)
            form = replace(form, parser=calls)
        if form is not None and form.grammar is not None:
            return form  # under a grammar a model cannot think
        thoughts = await asyncio.to_thread(model.reasoning_parser, self.reasoning_parser)
        return form if thoughts is None else ReasoningForm(parser=thoughts, inner=form)

    def _server(self) -> Server | None:
        if self.base_url is None:
            return None
        key = None if self.api_key is None else self.api_key.get_secret_value()
        server = Server(base_url=self.base_url, api_key=key, verify=self.verify)
        return server if self.max_retries is None else replace(server, max_retries=self.max_retries)


@lru_cache(maxsize=8)
def _chat_of(model: str) -> ChatTemplate:
    """Return a model's tokenizer, read at the first call; no lock is held while it is."""
    return ChatTemplate.load(locate_model_files(model, with_weights=False))


def spell_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments under the names of fields, lists as tuples.

    Raises:
        ConfigurationError: `timeout` stands beside `max_seconds`.
    """
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
        k: tuple(v) if isinstance(v, list) and k in SETTING_NAMES else v for k, v in spelled.items()
    }


def with_server(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the servers of AIC_BASE_URL to fields, where nothing says where the model runs."""
    urls = tuple(filter(None, os.environ.get("AIC_BASE_URL", "").split(",")))
    if not urls or {"base_url", "engine", "engine_args", "backend"} & set(values):
        return dict(values)
    return {**values, "base_url": urls[0] if len(urls) == 1 else urls}


def check_names(values: Mapping[str, Any], *, allowed: Collection[str]) -> None:
    """Refuse names that are not allowed.

    Raises:
        ConfigurationError: Names the first one, and what there is.
    """
    for name, value in values.items():
        if name not in allowed:
            known = sorted(set(allowed) & {*IDENTITY_NAMES, "on_progress"})
            raise ConfigurationError(name, value, f"one of the names {', '.join(known)}")


def check_fields(values: dict[str, Any]) -> None:
    """Check what pydantic would not, or would report as an error of its own.

    Args:
        values: Fields of `AdaptiveFields` by name, before they are set; a model that is a path
            becomes a string.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    if isinstance(values.get("model"), Path):
        values["model"] = str(values["model"])
    model = values.get("model", "unset")
    if not isinstance(model, str) or not model.strip():
        raise ConfigurationError(
            "model", model, "a name that `aic models` lists, a folder or a model of the hub"
        )
    engine = values.get("engine")
    if engine is not None and engine not in get_args(EngineName):
        raise ConfigurationError("engine", engine, f"one of {', '.join(get_args(EngineName))}")
    engine_args = values.get("engine_args")
    if engine_args is not None and not isinstance(engine_args, dict):
        raise ConfigurationError("engine_args", engine_args, "a dict of vLLM's engine arguments")
    _check_server(values)
    _check_bool("include_samples", values.get("include_samples", False))
    on_progress = values.get("on_progress")
    if on_progress is not None and not callable(on_progress):
        raise ConfigurationError("on_progress", on_progress, "a function of one TraceEvent")
    lay_over(_settings_among(values), {})


def _check_server(values: Mapping[str, Any]) -> None:
    """Check where a server is and its key, which pydantic would show."""
    urls = values.get("base_url")
    for url in urls if isinstance(urls, tuple | list) else (urls,):
        if url is not None:
            check_url(url)
    key = (
        values.get("api_key") if "api_key" in values or not urls else os.environ.get("AIC_API_KEY")
    )
    check_key(key.get_secret_value() if isinstance(key, SecretStr) else key)


def _settings_among(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among `values` that are set."""
    return {name: values[name] for name in SETTING_NAMES if values.get(name) is not None}


def _check_bool(name: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(name, value, "True or False")
