"""Adaptive Best-of-N with mid-generation pruning, by one model that evaluates itself.

::

    from selfeval_backend import Message, load_model

    model = load_model("reference")
    answer = await model.answer([Message(role="user", content="Use 3, 19 and 25 to make 41.")])
    answer.text, answer.outcome.confidence, answer.outcome.usage

Names come when they are asked for (PEP 562), so that importing the package costs next to nothing
and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfeval_backend.chat import JsonForm, Message, ToolCall, ToolForm, ToolSpec
    from selfeval_backend.errors import (
        AICError,
        ConfigurationError,
        ContextLengthError,
        DatasetError,
        EngineClosedError,
        EngineConnectionError,
        EngineError,
        EngineRequestError,
        EngineResponseError,
        EngineTimeoutError,
        GateError,
        LowConfidenceError,
        MissingConfidenceError,
        MissingDependencyError,
        ModelFilesError,
        NoFinishedSampleError,
        ScorerError,
        SelfEvaluationError,
        StreamBrokenError,
        UncalibratedConfidenceError,
    )
    from selfeval_backend.gate import GatePolicy, GateRecord
    from selfeval_backend.model import (
        Answer,
        SelfEvaluatingModel,
        UncalibratedWarning,
        load_model,
    )
    from selfeval_backend.policy import BestOfN
    from selfeval_backend.selfeval import SelfEvalConfig
    from selfeval_backend.settings import Settings
    from selfeval_backend.types import Limits, Outcome, Sample, SelfEvaluation, Usage

    __version__: str

__all__ = [
    "AICError",
    "Answer",
    "BestOfN",
    "ConfigurationError",
    "ContextLengthError",
    "DatasetError",
    "EngineClosedError",
    "EngineConnectionError",
    "EngineError",
    "EngineRequestError",
    "EngineResponseError",
    "EngineTimeoutError",
    "GateError",
    "GatePolicy",
    "GateRecord",
    "JsonForm",
    "Limits",
    "LowConfidenceError",
    "Message",
    "MissingConfidenceError",
    "MissingDependencyError",
    "ModelFilesError",
    "NoFinishedSampleError",
    "Outcome",
    "Sample",
    "ScorerError",
    "SelfEvalConfig",
    "SelfEvaluatingModel",
    "SelfEvaluation",
    "SelfEvaluationError",
    "Settings",
    "StreamBrokenError",
    "ToolCall",
    "ToolForm",
    "ToolSpec",
    "UncalibratedConfidenceError",
    "UncalibratedWarning",
    "Usage",
    "__version__",
    "load_model",
]

_HOMES = {
    "Answer": "model",
    "BestOfN": "policy",
    "GatePolicy": "gate",
    "GateRecord": "gate",
    "JsonForm": "chat",
    "Limits": "types",
    "Message": "chat",
    "Outcome": "types",
    "Sample": "types",
    "SelfEvalConfig": "selfeval",
    "SelfEvaluatingModel": "model",
    "SelfEvaluation": "types",
    "Settings": "settings",
    "ToolCall": "chat",
    "ToolForm": "chat",
    "ToolSpec": "chat",
    "UncalibratedWarning": "model",
    "Usage": "types",
    "load_model": "model",
}
"""Modules of the public names; those of the errors are left out."""

if not TYPE_CHECKING:  # a checker takes the imports above, and finds misspelt names

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            value = _version()
        else:
            value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _version() -> str:
    """Return the installed version; "0+unknown" in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("adaptive-inference-compute")
    except PackageNotFoundError:
        return "0+unknown"
