"""LangChain: a chat model and a completion model of adaptive Best-of-N, and their gate.

What needs more than langchain-core is imported on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aic_integrations.langchain.chat_model import ChatAdaptive
from aic_integrations.langchain.gate.chat_model import ConfidenceGateChatModel
from aic_integrations.langchain.gate.run import gate_records
from aic_integrations.langchain.gate.runnable import ConfidenceGateRunnable
from aic_integrations.langchain.llm import AdaptiveLLM
from selfeval_backend.errors import MissingDependencyError

if TYPE_CHECKING:
    from aic_integrations.langchain.decision_model import SelfEvaluationDecisionModel
    from aic_integrations.langchain.gate.graph import ConfidenceGateNode, GateState
    from aic_integrations.langchain.gate.middleware import ConfidenceGate
    from aic_integrations.langchain.spans import GenAISpans

__all__ = [
    "AdaptiveLLM",
    "ChatAdaptive",
    "ConfidenceGate",
    "ConfidenceGateChatModel",
    "ConfidenceGateNode",
    "ConfidenceGateRunnable",
    "GateState",
    "GenAISpans",
    "SelfEvaluationDecisionModel",
    "gate_records",
]

_LATE = {
    "ConfidenceGate": "gate.middleware",
    "ConfidenceGateNode": "gate.graph",
    "GateState": "gate.graph",
    "GenAISpans": "spans",
    "SelfEvaluationDecisionModel": "decision_model",
}
"""Modules of the names that need more than langchain-core 1.7."""

_EXTRAS = {"opentelemetry": "telemetry"}
"""Extras that install what is missing, where it is not `agents`."""

if not TYPE_CHECKING:  # a checker takes the imports above, and finds misspelt names

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
        except ModuleNotFoundError as error:
            missing = error.name or "langchain"
            extra = _EXTRAS.get(missing.partition(".")[0], "agents")
            raise MissingDependencyError(missing, extra=extra) from error
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
