"""LlamaIndex: `AdaptiveLLM`, and query engines that keep and act on its confidence."""

from aic_integrations.llama_index.evaluator import ConfidenceEvaluator
from aic_integrations.llama_index.llm import AdaptiveLLM
from aic_integrations.llama_index.query_engines import (
    BestOfNQueryEngine,
    ConfidenceGateQueryEngine,
)
from aic_integrations.llama_index.scopes import (
    CollectedCall,
    Collection,
    best_of_n_settings,
    collect_best_of_n,
)
from aic_integrations.llama_index.workflow import (
    AnsweredEvent,
    ConfidenceGateStep,
    ConfidentEvent,
    UnsureEvent,
)

__all__ = [
    "AdaptiveLLM",
    "AnsweredEvent",
    "BestOfNQueryEngine",
    "CollectedCall",
    "Collection",
    "ConfidenceEvaluator",
    "ConfidenceGateQueryEngine",
    "ConfidenceGateStep",
    "ConfidentEvent",
    "UnsureEvent",
    "best_of_n_settings",
    "collect_best_of_n",
]
