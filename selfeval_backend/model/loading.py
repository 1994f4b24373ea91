"""From a model's name to a model that answers: its files, its own facts, and what runs it."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.engine.base import Engine
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.model.folder import locate_model_files
from selfeval_backend.model.generation_config import read_generation_config
from selfeval_backend.model.self_evaluating_model import SelfEvaluatingModel
from selfeval_backend.model.selfeval_files import find_selfeval
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.sync import run_sync
from selfeval_backend.web import check_key, clean_url

__all__ = ["EngineName", "Server", "check_where_it_runs", "choose_engine", "load_model"]

EngineName = Literal["transformers", "vllm"]
"""Engines that `load_model` can start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running vLLM server, and how it is talked to."""

    base_url: str | tuple[str, ...]
    """Up to and with the version: ``http://host:8000/v1``. Several are replicas of one model: a
    prompt stays on one of them, and goes on elsewhere if that one fails."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as a bearer token. It is in no message, and no part of the repr."""
    timeout_s: float = 60.0
    """Longest silence: while it connects, and between two tokens."""
    max_retries: int = 2
    """Times that a request is sent again that failed before any token came."""
    verify: bool | str = True
    """False: certificates are not checked; a path: a bundle of authorities."""

    def __post_init__(self) -> None:
        """Take the URLs and the key without what was pasted with them.

        Raises:
            ConfigurationError: A URL holds a password, or no header can carry the key.
        """
        given = self.base_url
        urls = clean_url(given) if isinstance(given, str) else tuple(map(clean_url, given))
        object.__setattr__(self, "base_url", urls)
        object.__setattr__(self, "api_key", check_key(self.api_key))


def load_model(
    model: str | Path,
    *,
    engine: EngineName | None = None,
    engine_args: Mapping[str, Any] | None = None,
    server: Server | None = None,
    model_files: str | Path | None = None,
) -> SelfEvaluatingModel:
    """Load a model with its self-evaluation.

    Args:
        model: A name that `aic models` lists, a model folder, or a model of the hub. Of a
            server: the name it is served under.
        engine: None: the server, if there is one; else vLLM where it is installed and a GPU is
            there; else transformers.
        engine_args: For vLLM in this process alone: keyword arguments of `vllm.EngineArgs`.
        server: Runs the model.
        model_files: Where the tokenizer, the selfeval.json and the generation_config.json of a
            server's model are found; None: `model` says it.

    Raises:
        ConfigurationError: The engine is unknown.
        ModelFilesError: The model cannot be found or read, or its selfeval.json or
            generation_config.json is broken.
        SelfEvaluationError: Its tokenizer lacks the label tokens.
        MissingDependencyError: What the engine needs is not installed.
    """
    check_where_it_runs(
        model,
        engine=engine,
        engine_args=engine_args,
        on_server=server is not None,
        model_files=model_files,
    )
    folder = locate_model_files(model_files or model, with_weights=server is None)
    config = _own_facts(str(model_files or model), folder)
    generation_config = read_generation_config(folder)
    chat = ChatTemplate.load(folder)
    SelfEvaluator(config, chat)  # refuse a tokenizer without labels before weights are read
    started = (
        _load_engine(folder, engine or choose_engine(), engine_args)
        if server is None
        else _connect(server, str(model))
    )
    return SelfEvaluatingModel(
        name=str(model),
        engine=started,
        chat=chat,
        config=config,
        generation_config=generation_config,
    )


def _own_facts(name: str, folder: Path) -> SelfEvalConfig | None:
    """Return what is in a model's selfeval.json; say so where the user's own is not used."""
    found = find_selfeval(folder)
    if found.passed_over:
        warnings.warn(
            f"{name}: {found.passed_over[0]} is for other files of a model of this name, and is "
            "not used. Tune this one, or remove the file.",
            stacklevel=3,
        )
    return found.config


def check_where_it_runs(
    model: str | Path,
    *,
    engine: str | None,
    engine_args: Mapping[str, Any] | None = None,
    on_server: bool,
    model_files: str | Path | None,
) -> None:
    """Refuse arguments of `load_model` that contradict each other, before anything is read.

    Raises:
        ConfigurationError: Names the first one.
    """
    if engine is not None and engine not in get_args(EngineName):
        raise ConfigurationError("engine", engine, f"one of {', '.join(get_args(EngineName))}")
    if not str(model).strip():
        raise ConfigurationError(
            "model", model, "a name that `aic models` lists, a folder or a model of the hub"
        )
    if model_files is not None and not on_server:
        raise ConfigurationError("model_files", model_files, "none without a server")
    if on_server and (engine is not None or engine_args):
        raise ConfigurationError(
            "engine" if engine else "engine_args",
            engine or dict(engine_args or {}),
            "none with base_url: the server has its own",
        )
    if engine_args and (engine or choose_engine()) != "vllm":
        raise ConfigurationError(
            "engine_args",
            dict(engine_args),
            "none with the engine 'transformers'",
            remedy='They are vLLM\'s: add engine="vllm".',
        )


def choose_engine() -> EngineName:
    """Return the engine that `load_model` takes where none is named.

    vLLM where it is installed and a GPU is there, else transformers.
    """
    if importlib.util.find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def _load_engine(folder: Path, name: EngineName, engine_args: Mapping[str, Any] | None) -> Engine:
    if name == "vllm":
        from selfeval_backend.engine.vllm import load_vllm_engine

        return load_vllm_engine(str(folder), engine_args=engine_args)
    from selfeval_backend.engine.transformers import load_transformers_engine

    return load_transformers_engine(str(folder))


def _connect(server: Server, model: str) -> Engine:
    try:
        from selfeval_backend.engine.server import connect_server_engine
    except ImportError as error:
        raise MissingDependencyError(error.name or "httpx", extra="server") from error
    from selfeval_backend.engine.replicas import connect_replicas

    connect = partial(
        connect_server_engine,
        model=model,
        api_key=server.api_key,
        timeout_s=server.timeout_s,
        max_retries=server.max_retries,
        verify=server.verify,
    )
    if isinstance(server.base_url, str):
        return run_sync(connect(server.base_url))
    if not server.base_url:
        raise ConfigurationError("base_url", server.base_url, "at least one URL")
    return run_sync(connect_replicas({url: partial(connect, url) for url in server.base_url}))
