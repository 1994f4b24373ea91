"""Start vLLM on a model folder, with the user's engine arguments and good defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfeval_backend.engine.vllm.engine import VllmEngine
from selfeval_backend.engine.vllm.worker import Worker
from selfeval_backend.errors import (
    ConfigurationError,
    EngineError,
    MissingDependencyError,
    ModelFilesError,
)
from selfeval_backend.forks import check_may_load

__all__ = ["check_vllm_model", "load_vllm_engine"]

_DEFAULTS: Mapping[str, Any] = {
    "enable_prefix_caching": True,  # evaluations read what their sample has computed
    "scheduling_policy": "priority",  # evaluations go first
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
    # The one that the transformers engine has: the same grammars, and the same text under them.
    "structured_outputs_config": {"backend": "guidance"},
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json")
_CPU_DEFAULTS: Mapping[str, Any] = {
    "dtype": "float32",  # as the transformers engine does on a CPU
    "block_size": 32,  # the default of 128 leaves long partial blocks to compute again
    "enforce_eager": True,
    # vLLM 0.32 breaks down on a CPU when the prompt of a request with a seed is computed in chunks.
    "enable_chunked_prefill": False,
    # In this process and thread: two would fight for few cores (97 against 2,067 tokens/s).
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
}
_CPU_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def load_vllm_engine(
    path_or_name: str, *, engine_args: Mapping[str, Any] | None = None
) -> VllmEngine:
    """Start vLLM in this process.

    Where no GPU is there, these variables of the environment are set unless they are set already:
    VLLM_ENABLE_V1_MULTIPROCESSING=0, VLLM_CPU_OMP_THREADS_BIND=nobind, VLLM_CPU_KVCACHE_SPACE=1
    (GiB). Anywhere, VLLM_LOGGING_LEVEL=ERROR.

    Args:
        path_or_name: A model folder, or whatever vLLM's `model` takes.
        engine_args: Keyword arguments of `vllm.EngineArgs`: tensor_parallel_size, dtype,
            quantization, gpu_memory_utilization, max_model_len, ...

    Raises:
        MissingDependencyError: vLLM is not installed.
        ConfigurationError: An engine argument is unknown, or vLLM refuses it or the model; or this
            process was forked from one that had loaded a model.
        ModelFilesError: The model cannot be loaded.
        EngineError: vLLM could not start.
    """
    check_may_load("vllm")
    given = dict(engine_args or {})
    parsed = _parsed(path_or_name, given)
    return VllmEngine(Worker(lambda: _start(parsed, given)))


def check_vllm_model(path_or_name: str) -> int:
    """Ask vLLM whether it would run a model, before any weight is read.

    Returns:
        Most tokens of a sequence.

    Raises:
        MissingDependencyError: vLLM is not installed.
        ConfigurationError: vLLM refuses the model.
        ModelFilesError: Its config cannot be read.
    """
    config = _engine_config(_parsed(path_or_name, {}), {})
    # As the engine has it: vLLM wants room for one token after every prompt.
    return int(config.model_config.max_model_len) - 1


def _parsed(path_or_name: str, given: Mapping[str, Any]) -> Any:
    """Return vLLM's arguments, with the defaults that suit this machine."""
    if "model" in given:
        raise ConfigurationError("engine_args", given, "no model, which has an argument of its own")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    on_cpu = not _has_gpu()
    if on_cpu:
        for name, value in _CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    try:
        import vllm
    except ImportError as error:
        raise MissingDependencyError("vllm", extra="vllm") from error
    defaults = {
        **_DEFAULTS,
        # Tokens in, tokens out: only grammars need it.
        "skip_tokenizer_init": not _has_tokenizer(path_or_name),
        **(_CPU_DEFAULTS if on_cpu else {}),
    }
    try:
        return vllm.EngineArgs(model=path_or_name, **{**defaults, **given})
    except (TypeError, ValueError) as error:
        raise _refused(path_or_name, given, error) from error


def _has_tokenizer(path_or_name: str) -> bool:
    folder = Path(path_or_name)
    return not folder.is_dir() or any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _start(parsed: Any, given: Mapping[str, Any]) -> Any:
    from vllm.v1.engine.llm_engine import LLMEngine

    config = _engine_config(parsed, given)
    try:
        return LLMEngine.from_vllm_config(config, disable_log_stats=parsed.disable_log_stats)
    except (OSError, KeyError) as error:
        raise ModelFilesError(f"{parsed.model} cannot be loaded: {error}") from error
    except Exception as error:  # vLLM raises whatever its parts raise
        raise EngineError(f"vLLM could not start: {error}", hint="See its log above.") from error


def _engine_config(parsed: Any, given: Mapping[str, Any]) -> Any:
    try:
        config = parsed.create_engine_config()
    except (ValueError, TypeError, AssertionError, NotImplementedError, ImportError) as error:
        raise _refused(parsed.model, given, error) from error
    except (OSError, KeyError, AttributeError) as error:
        raise ModelFilesError(f"{parsed.model} cannot be loaded: {error}") from error
    model = config.model_config
    if model.runner_type != "generate" or model.is_encoder_decoder:
        kind = "encodes and decodes" if model.is_encoder_decoder else f"is for {model.runner_type}"
        raise ConfigurationError(
            "model", parsed.model, f"one that continues a text; this one {kind}"
        )
    return config


def _refused(model: str, given: Mapping[str, Any], error: Exception) -> ConfigurationError:
    """Return the error for a refusal by vLLM: of the arguments, or, without any, of the model."""
    reason = " ".join(str(error).split())
    field, value = ("engine_args", dict(given)) if given else ("model", model)
    allowed = "arguments that vLLM takes" if given else "a model that vLLM takes"
    return ConfigurationError(field, value, allowed, remedy=f"vLLM says: {reason[:400]}")
