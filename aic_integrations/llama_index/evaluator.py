"""The confidence as an evaluator, for `RetryQueryEngine` and LlamaIndex's evaluation runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.response.schema import Response
from llama_index.core.evaluation.base import BaseEvaluator, EvaluationResult
from llama_index.core.prompts.mixin import PromptDictType

from selfeval_backend.gate import GateAction, GatePolicy, decide, raise_gate_error, read_confidence

__all__ = ["ConfidenceEvaluator"]


class ConfidenceEvaluator(BaseEvaluator):
    """An evaluator that passes answers of enough confidence; it asks no LLM itself.

    ::

        engine = BestOfNQueryEngine(index.as_query_engine())
        RetryQueryEngine(engine, ConfidenceEvaluator(threshold=0.8), max_retries=1)

    The response's metadata must carry ``best_of_n``, as those of `BestOfNQueryEngine` do.
    `RetryQueryEngine` rewrites the query at each try, never grows what is drawn or retrieved, and
    is synchronous; `ConfidenceGateQueryEngine` is not so.

    Args:
        threshold: In [0, 1]: the least confidence that passes.
        on_missing: What is done without one: "raise", "accept" (it passes), or "refuse" (it fails).
        on_uncalibrated: What is done about one that is not calibrated: the same, or "compare".

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(
        self,
        *,
        threshold: float,
        on_missing: GateAction = "raise",
        on_uncalibrated: GateAction = "raise",
    ) -> None:
        self.policy = GatePolicy(
            threshold=threshold,
            on_low="refuse",
            on_missing=on_missing,
            on_uncalibrated=on_uncalibrated,
        )
        """The settings, checked."""

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        return None

    def evaluate_response(
        self, query: str | None = None, response: Response | None = None, **kwargs: Any
    ) -> EvaluationResult:
        """Judge a response by the ``best_of_n`` in its metadata.

        Raises:
            GateError: There is no confidence, or it is not calibrated, and that is to raise.
        """
        return self._judge(query, response, kwargs.get("best_of_n"))

    async def aevaluate_response(
        self, query: str | None = None, response: Response | None = None, **kwargs: Any
    ) -> EvaluationResult:
        """Judge a response; as `evaluate_response`."""
        return self._judge(query, response, kwargs.get("best_of_n"))

    def _judge(
        self, query: str | None, response: Response | None, best_of_n: object
    ) -> EvaluationResult:
        carried = None if response is None else (response.metadata or {}).get("best_of_n")
        return self._result(
            query, None if response is None else response.response, best_of_n or carried
        )

    async def aevaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Judge an answer by ``best_of_n``, which must be given.

        Args:
            query: Not looked at.
            response: Not looked at.
            contexts: Not looked at.
            kwargs: ``best_of_n``, as a response carries it.

        Raises:
            GateError: There is no confidence, or it is not calibrated, and that is to raise.
        """
        return self._result(query, response, kwargs.get("best_of_n"))

    def _result(
        self, query: str | None, response: str | None, best_of_n: object
    ) -> EvaluationResult:
        record = decide(self.policy, read_confidence(best_of_n))
        if record.action == "raise":
            raise_gate_error((record,))
        return EvaluationResult(
            query=query,
            response=response,
            passing=record.action == "accept",
            score=record.confidence,
            feedback=record.reason,
            invalid_result=record.confidence is None,
            invalid_reason=record.reason if record.confidence is None else None,
        )
