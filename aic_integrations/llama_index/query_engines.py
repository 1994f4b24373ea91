"""Query engines that keep the confidence, and that act on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

from aic_integrations.llama_index.scopes import (
    Collection,
    best_of_n_settings,
    collect_best_of_n,
)
from selfeval_backend.errors import ConfigurationError, NoFinishedSampleError, StreamBrokenError
from selfeval_backend.gate import (
    ConfidenceReading,
    GateAction,
    GatePolicy,
    GateRecord,
    Verdict,
    best_attempt,
    decide,
    raise_gate_error,
    read_confidence,
    retry_settings,
    total_usage,
)
from selfeval_backend.types import to_json

__all__ = ["BestOfNQueryEngine", "ConfidenceGateQueryEngine"]

_Whole = Response | PydanticResponse


class BestOfNQueryEngine(BaseQueryEngine):
    """A query engine whose responses keep what the LLM said of them.

    ``response.metadata["best_of_n"]`` has the confidence of the weakest LLM call, what all calls
    paid for, and each call's own facts (see `aic_integrations.llama_index.Collection.summary`).
    Streams are read to their end first.

    Args:
        query_engine: Asked as it is.
        callback_manager: None: a new one.
    """

    def __init__(
        self, query_engine: BaseQueryEngine, *, callback_manager: CallbackManager | None = None
    ) -> None:
        super().__init__(callback_manager)
        self._query_engine = query_engine

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"query_engine": self._query_engine}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with collect_best_of_n() as collected:
            response = _read(self._query_engine.query(query_bundle))
        return _with_metadata(response, best_of_n=collected.summary())

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with collect_best_of_n() as collected:
            response = await _aread(await self._query_engine.aquery(query_bundle))
        return _with_metadata(response, best_of_n=collected.summary())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One more try at a query."""

    engine: BaseQueryEngine
    top_k: int | None
    """Nodes that it retrieves at most, where that is known."""
    settings: dict[str, Any]
    """Given to every LLM call in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What came of one."""

    attempt: _Attempt
    response: _Whole | None
    """None: an LLM call failed."""
    collected: Collection
    error: NoFinishedSampleError | StreamBrokenError | None


class ConfidenceGateQueryEngine(BaseQueryEngine):
    """A query engine that gives out answers of enough confidence, and acts on the others.

    ::

        gate = ConfidenceGateQueryEngine(
            index.as_query_engine(similarity_top_k=2), threshold=0.8, on_low=("retry", "refuse")
        )
        response = await gate.aquery("Who wrote it?")
        response.metadata["confidence_gate"]["action"]  # "accept", or "refuse"

    What is done about a low confidence is walked from left to right (`on_low`): "retry" asks the
    same engine again with more nodes and more samples, "escalate" asks the next of `stronger`,
    "accept" gives the best answer out all the same, "refuse" says that it does not know, "raise"
    raises a `selfeval_backend.errors.GateError`. A confidence that is missing, as when nothing was
    retrieved and no LLM asked, or that is not calibrated, is a policy of its own and never passes
    by itself.

    The response's ``metadata["confidence_gate"]`` has action, reason, what all attempts together
    paid for, and every attempt; ``metadata["best_of_n"]`` the facts of the one that is given out.

    Args:
        query_engine: Asked first.
        threshold: In [0, 1]: the least confidence that passes; of several LLM calls the lowest
            counts.
        on_low: What is done about a lower one.
        on_missing: What is done without one.
        on_uncalibrated: What is done about one that is not calibrated; "compare" compares it with
            `threshold` like any other.
        max_retries: Times that "retry" is done in a row.
        retry_samples: ``max_samples`` of a retry; None: twice those of the attempt before it.
        retrieve_more: By how much the retriever's top-k grows at each retry; 1: not at all.
        stronger: Query engines to escalate to.
        trust_stronger: Whether the answer of a stronger engine passes without a confidence, for
            those whose LLM has none.
        refusal: The text of a "refuse".
        callback_manager: None: a new one.

    Raises:
        ConfigurationError: A value is out of its range, or the engine's top-k cannot grow.
    """

    def __init__(
        self,
        query_engine: BaseQueryEngine,
        *,
        threshold: float,
        on_low: GateAction | Sequence[GateAction] = ("retry", "refuse"),
        on_missing: GateAction | Sequence[GateAction] = "raise",
        on_uncalibrated: GateAction | Literal["compare"] | Sequence[GateAction] = "raise",
        max_retries: int = 1,
        retry_samples: int | None = None,
        retrieve_more: float = 2.0,
        stronger: Sequence[BaseQueryEngine] = (),
        trust_stronger: bool = False,
        refusal: str = "I do not know.",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        self.policy = GatePolicy(
            threshold=threshold,
            on_low=on_low,
            on_missing=on_missing,
            on_uncalibrated=on_uncalibrated,
            max_retries=max_retries,
            retry_samples=retry_samples,
            num_stronger=len(stronger),
            trust_stronger=trust_stronger,
        )
        """The settings, checked."""
        self._engines = (query_engine, *stronger)
        self._retrieve_more = retrieve_more
        self._refusal = refusal
        self._check()

    def _check(self) -> None:
        if self._does("interrupt"):
            raise ConfigurationError(
                "on_low, on_missing or on_uncalibrated",
                "interrupt",
                "no interrupt: a query engine has nobody to ask",
                remedy="Use ConfidenceGateStep in a workflow, which can wait for a person.",
            )
        growth = self._retrieve_more
        if isinstance(growth, bool) or not isinstance(growth, int | float) or not growth >= 1:
            raise ConfigurationError("retrieve_more", growth, "a number of at least 1")
        if growth == 1 or not self._does("retry"):
            return
        for engine in self._engines:
            if _top_k(engine) is None:
                raise ConfigurationError(
                    "retrieve_more",
                    growth,
                    f"1 for a {type(engine).__name__}, whose retriever has no similarity_top_k",
                    remedy="Set retrieve_more=1: a retry then draws more samples only.",
                )

    def _does(self, action: GateAction) -> bool:
        verdicts: tuple[Verdict, ...] = ("low", "missing", "uncalibrated")
        return any(action in self.policy.chain(verdict) for verdict in verdicts)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {f"query_engine_{level}": engine for level, engine in enumerate(self._engines)}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        run = _Run(self.policy, self._engines, self._retrieve_more)
        while (attempt := run.next_attempt()) is not None:
            with run.trying(attempt):
                run.heard(_read(attempt.engine.query(query_bundle)))
        return run.response(self._refusal)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        run = _Run(self.policy, self._engines, self._retrieve_more)
        while (attempt := run.next_attempt()) is not None:
            with run.trying(attempt):
                run.heard(await _aread(await attempt.engine.aquery(query_bundle)))
        return run.response(self._refusal)


class _Run:
    """One query through the gate: attempts, and what was decided about them. Asks nobody itself."""

    def __init__(
        self, policy: GatePolicy, engines: Sequence[BaseQueryEngine], retrieve_more: float
    ) -> None:
        self._policy = policy
        self._engines = engines
        self._retrieve_more = retrieve_more
        self._records: list[GateRecord] = []
        self._tried: list[_Tried] = []
        self._reading: ConfidenceReading | None = None
        self._heard: _Whole | None = None

    def next_attempt(self) -> _Attempt | None:
        """Return what is tried next; None once it is decided."""
        if not self._records:
            return self._first_of_level(0)
        last = self._records[-1]
        if last.final:
            return None
        if last.action == "escalate":
            return self._first_of_level(last.level + 1)
        assert self._reading is not None, "there is one for each record"
        before = self._tried[-1].attempt
        settings = {**before.settings, **retry_settings(self._policy, self._reading)}
        top_k = before.top_k
        if top_k is None or self._retrieve_more == 1:
            return replace(before, settings=settings)
        more = math.ceil(top_k * self._retrieve_more)
        # A retry of the same prompt draws no greedy sample again; with more nodes it is another.
        settings.pop("annealing", None)
        return _Attempt(engine=_with_top_k(before.engine, more), top_k=more, settings=settings)

    def _first_of_level(self, level: int) -> _Attempt:
        engine = self._engines[level]
        return _Attempt(engine=engine, top_k=_top_k(engine), settings={})

    @contextmanager
    def trying(self, attempt: _Attempt) -> Iterator[None]:
        """Give the attempt its settings, collect its calls, and judge it at the end."""
        self._heard, error = None, None
        with best_of_n_settings(**attempt.settings), collect_best_of_n() as collected:
            try:
                yield
            except (NoFinishedSampleError, StreamBrokenError) as no_answer:
                error = no_answer
        tried = _Tried(attempt=attempt, response=self._heard, collected=collected, error=error)
        self._tried.append(tried)
        self._judge(tried)

    def heard(self, response: _Whole) -> None:
        """Note what the engine answered."""
        self._heard = response

    def _judge(self, tried: _Tried) -> None:
        calls = tried.collected.calls
        self._reading = _reading(tried)
        record = decide(
            self._policy,
            self._reading,
            self._records,
            model=calls[-1].model if calls else "",
            usage=tried.collected.usage,
        )
        self._records.append(record)

    def response(self, refusal: str) -> RESPONSE_TYPE:
        """Return what the gate gives out.

        Raises:
            GateError: It is to raise.
            NoFinishedSampleError: An answer is to be given out and there is none; or a
                StreamBrokenError.
        """
        last = self._records[-1]
        if last.action == "raise":
            raise_gate_error(self._records)
        best = self._tried[best_attempt(self._records)]
        if last.action == "refuse":
            sources = [] if best.response is None else best.response.source_nodes
            answer: _Whole = Response(response=refusal, source_nodes=sources)
        elif best.response is None:
            assert best.error is not None, "no response without an error"
            raise best.error
        else:
            answer = best.response
        return _with_metadata(
            answer, best_of_n=best.collected.summary(), confidence_gate=self._told()
        )

    def _told(self) -> dict[str, Any]:
        last = self._records[-1]
        return {
            "action": last.action,
            "reason": last.reason,
            "attempt": best_attempt(self._records),
            "confidence": self._records[best_attempt(self._records)].confidence,
            "threshold": self._policy.threshold,
            "usage": to_json(total_usage(self._records)),
            "attempts": [
                {
                    **record.to_json(),
                    "top_k": tried.attempt.top_k,
                    "settings": to_json(tried.attempt.settings),
                    "num_llm_calls": len(tried.collected.calls),
                }
                for record, tried in zip(self._records, self._tried, strict=True)
            ],
        }


def _reading(tried: _Tried) -> ConfidenceReading:
    if tried.error is not None:
        return ConfidenceReading(confidence=None, problem=str(tried.error))
    summary = tried.collected.summary()
    if summary is None:
        found = "nothing was retrieved" if not _num_sources(tried) else "no AdaptiveLLM was asked"
        return ConfidenceReading(confidence=None, problem=f"no LLM call to trust: {found}")
    return read_confidence(summary)


def _num_sources(tried: _Tried) -> int:
    return 0 if tried.response is None else len(tried.response.source_nodes)


def _read(response: RESPONSE_TYPE) -> _Whole:
    if isinstance(response, AsyncStreamingResponse):
        raise ConfigurationError(
            "query_engine",
            type(response).__name__,
            "one that answers a synchronous query with text or a synchronous stream",
            remedy="Ask with aquery.",
        )
    return response.get_response() if isinstance(response, StreamingResponse) else response


async def _aread(response: RESPONSE_TYPE) -> _Whole:
    if isinstance(response, AsyncStreamingResponse):
        return await response.get_response()
    return _read(response)


def _with_metadata(response: _Whole, **facts: Any) -> _Whole:
    return replace(response, metadata={**(response.metadata or {}), **facts})


def _retriever(engine: BaseQueryEngine) -> BaseRetriever | None:
    return engine.retriever if isinstance(engine, RetrieverQueryEngine) else None


def _top_k(engine: BaseQueryEngine) -> int | None:
    top_k = getattr(_retriever(engine), "similarity_top_k", None)
    return top_k if isinstance(top_k, int) else None


def _with_top_k(engine: BaseQueryEngine, top_k: int) -> BaseQueryEngine:
    """Return a query engine that retrieves more; the one given, which others may use, stays."""
    assert isinstance(engine, RetrieverQueryEngine), "it has a top-k"
    retriever = copy.copy(engine.retriever)
    retriever.similarity_top_k = top_k  # type: ignore[attr-defined]  # of those that have one
    return engine.with_retriever(retriever)
