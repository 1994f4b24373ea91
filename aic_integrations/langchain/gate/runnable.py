"""`ConfidenceGateRunnable`: the confidence gate around the model of a plain chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.config import merge_configs

from aic_integrations.langchain.gate.run import (
    REFUSAL,
    GateRun,
    GateSettings,
    check_no_interrupt,
)
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.gate import GatePolicy

__all__ = ["ConfidenceGateRunnable"]

_QUIET: RunnableConfig = {"tags": ["nostream"]}
"""LangGraph's own tag: keeps tokens of an attempt out of its "messages" stream."""

Model = Runnable[LanguageModelInput, AIMessage]


class ConfidenceGateRunnable(Runnable[LanguageModelInput, AIMessage]):
    """A chat model behind a gate: answers only with what is confident enough.

    ::

        gated = ConfidenceGateRunnable(llm, threshold=0.8, on_low=("retry", "refuse"))
        chain = prompt | gated | StrOutputParser()

    The message that comes out counts the tokens of all attempts in its ``usage_metadata``; what was
    decided, and what each attempt paid for, stands in ``response_metadata["confidence_gate"]``
    (`gate_records` reads it). Each attempt is a child run for callbacks and traces.

    `stream` and `astream` wait for an answer that passes, and give it out whole: what does not
    pass is never shown. Handlers see its tokens all the same, as `astream_events` does: where
    nobody may, or a chat model is needed, see `ConfidenceGateChatModel`.

    Args:
        model: A chat model, or one with settings bound to it.
        stronger: What "escalate" asks, one after another; one model is a list of one.
        refusal: The text of a refusal.
        settings: Of `selfeval_backend.gate.GatePolicy`.

    Raises:
        ConfigurationError: A setting is out of its range; a chain is given for a model; or
            "interrupt" is asked for, which needs a graph (see `ConfidenceGate` and
            `ConfidenceGateNode`).
    """

    def __init__(
        self,
        model: Model,
        *,
        stronger: Model | Sequence[Model] = (),
        refusal: str = REFUSAL,
        **settings: Unpack[GateSettings],
    ) -> None:
        self._models = (model, *((stronger,) if isinstance(stronger, Runnable) else stronger))
        self._refusal = refusal
        self.policy = GatePolicy(**settings, num_stronger=len(self._models) - 1)
        """The settings, checked."""
        for place, each in enumerate(self._models):
            _check_model("stronger" if place else "model", each)
        check_no_interrupt(self.policy)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer, with as many attempts as the policy asks for.

        Raises:
            GateError: No answer passed, and the policy ends with "raise".
        """
        return self._call_with_config(self._run, input, config, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer as `invoke` does, on the caller's event loop."""
        return await self._acall_with_config(self._arun, input, config, **kwargs)

    def _run(
        self,
        prompt: LanguageModelInput,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AIMessage:
        quiet = merge_configs(config, _QUIET)

        def ask(level: int, settings: Mapping[str, Any]) -> AIMessage:
            return _checked(self._models[level].invoke(prompt, quiet, **{**kwargs, **settings}))

        return GateRun(self.policy, self._refusal).answer(ask)

    async def _arun(
        self,
        prompt: LanguageModelInput,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AIMessage:
        quiet = merge_configs(config, _QUIET)

        async def ask(level: int, settings: Mapping[str, Any]) -> AIMessage:
            model = self._models[level]
            return _checked(await model.ainvoke(prompt, quiet, **{**kwargs, **settings}))

        return await GateRun(self.policy, self._refusal).aanswer(ask)


def _check_model(field: str, model: object) -> None:
    if not isinstance(model, Runnable) or isinstance(model, RunnableSequence):
        raise ConfigurationError(
            field,
            type(model).__name__,
            "a chat model",
            remedy="Put the gate into the chain in the model's place: prompt | gate | parser.",
        )


def _checked(answer: object) -> AIMessage:
    if not isinstance(answer, AIMessage):
        raise ConfigurationError(
            "model",
            type(answer).__name__,
            "a model that answers with an AIMessage",
            remedy="Parse behind the gate, not in front of it.",
        )
    return answer
