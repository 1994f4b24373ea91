"""`ConfidenceGate`: the confidence gate as middleware of LangChain's agents."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, NotRequired, Unpack

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
    PrivateStateAttr,
    hook_config,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.constants import TAG_NOSTREAM
from langgraph.runtime import Runtime
from langgraph.types import Command

from aic_integrations.langchain.gate.graph import carry_out, wait_for_reply
from aic_integrations.langchain.gate.run import (
    HELD_KEY,
    RECORDS_KEY,
    REFUSAL,
    GateRun,
    GateSettings,
    first_answer,
    gate_records,
    hold,
    wait_for_person,
)
from selfeval_backend.gate import GatePolicy

__all__ = ["ConfidenceGate", "ConfidenceGateState"]

_STRUCTURED_KEY = "confidence_gate_structured"


class ConfidenceGateState(AgentState[Any]):
    """What the gate adds to an agent's state."""

    confidence_gate: NotRequired[Annotated[list[dict[str, Any]], OmitFromInput, operator.add]]
    """Every decision of every call, oldest first; `gate_records` gives them their types."""
    confidence_gate_held: NotRequired[Annotated[list[dict[str, Any]], PrivateStateAttr]]
    """The answer that a person is asked about: no message yet."""
    confidence_gate_structured: NotRequired[Annotated[Any, PrivateStateAttr]]
    """What was parsed from that answer."""


class ConfidenceGate(AgentMiddleware[ConfidenceGateState, Any]):
    """Middleware that lets an agent's model answer only with what is confident enough.

    ::

        agent = create_agent(
            llm, tools, middleware=[ConfidenceGate(threshold=0.8, on_low=("retry", "refuse"))]
        )
        agent.invoke(...)["confidence_gate"]   # what was decided, and what it cost

    Every call of the model goes through it, those that call tools too. An answer that a person
    is asked about ("interrupt") is held back: a message that says so stands in its place until
    the agent is resumed with ``Command(resume={"type": "approve"})``, ``{"type": "edit", "content":
    "..."}`` or ``{"type": "reject"}``, for which it needs a checkpointer.

    A refusal, by the gate or by a person, ends the agent.

    The message that comes out counts the tokens of all attempts in its ``usage_metadata``. In a
    "messages" stream it comes whole, once it has passed: attempts are not shown.

    Args:
        stronger: Models that "escalate" asks, one after another; one is a list of one.
        refusal: The text of a refusal.
        settings: Of `selfeval_backend.gate.GatePolicy`.

    Raises:
        ConfigurationError: A setting is out of its range.
    """

    state_schema = ConfidenceGateState
    """What the gate keeps in the agent's state."""

    def __init__(
        self,
        *,
        stronger: BaseChatModel | Sequence[BaseChatModel] = (),
        refusal: str = REFUSAL,
        **settings: Unpack[GateSettings],
    ) -> None:
        super().__init__()
        self._stronger = (stronger,) if isinstance(stronger, BaseChatModel) else tuple(stronger)
        self._refusal = refusal
        self.policy = GatePolicy(**settings, num_stronger=len(self._stronger))
        """The settings, checked."""

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ExtendedModelResponse[Any]:
        """Call the model as often as the policy asks for.

        Raises:
            GateError: No answer passed, and the policy ends with "raise".
        """
        run = GateRun(self.policy, self._refusal)
        responses = []
        while not run.over:
            responses.append(handler(self._next_request(request, run)))
            run.add(first_answer(responses[-1].result))
        return _given_out(run, responses[run.best])

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """Call the model as `wrap_model_call` does, on the caller's event loop."""
        run = GateRun(self.policy, self._refusal)
        responses = []
        while not run.over:
            responses.append(await handler(self._next_request(request, run)))
            run.add(first_answer(responses[-1].result))
        return _given_out(run, responses[run.best])

    @hook_config(can_jump_to=["end"])
    def after_model(
        self, state: ConfidenceGateState, runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Ask a person, where the policy says so; end the agent after a refusal."""
        last = state["messages"][-1]
        records = gate_records(last) if isinstance(last, AIMessage) else ()
        if records and records[-1].action == "refuse":
            return {"jump_to": "end"}
        if not state.get(HELD_KEY):
            return None
        reply = wait_for_reply(state)
        update = carry_out(reply, state, self._refusal)
        structured = state.get(_STRUCTURED_KEY)
        if reply.type != "approve":
            update["jump_to"] = "end"
        elif structured is not None:
            update["structured_response"] = structured
        return {**update, _STRUCTURED_KEY: None}

    @hook_config(can_jump_to=["end"])
    async def aafter_model(
        self, state: ConfidenceGateState, runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Ask a person as `after_model` does; waiting holds up no event loop."""
        return self.after_model(state, runtime)

    def _next_request(self, request: ModelRequest[Any], run: GateRun) -> ModelRequest[Any]:
        model = self._stronger[run.level - 1] if run.level else request.model
        return request.override(
            model=_quiet(model),
            model_settings={**request.model_settings, **run.settings},
        )


def _quiet(model: Any) -> Any:
    """Return the model with its tokens kept out of "messages" streams."""
    if isinstance(model, BaseChatModel):
        return model.model_copy(update={"tags": [*(model.tags or ()), TAG_NOSTREAM]})
    # What `init_chat_model` makes of configurable fields takes tools, but is no chat model.
    return model.with_config(tags=[TAG_NOSTREAM])


def _given_out(run: GateRun, response: ModelResponse[Any]) -> ExtendedModelResponse[Any]:
    """Return the response of the best attempt, or what stands in its place."""
    message = run.message()
    update: dict[str, Any] = {
        RECORDS_KEY: [record.to_json() for record in run.records],
        # Of an answer that nobody was asked about any more, another question having come.
        HELD_KEY: [],
        _STRUCTURED_KEY: None,
    }
    if run.records[-1].action == "refuse":
        given = ModelResponse(result=[message])
    else:
        answer = first_answer(response.result)
        result = [message if each is answer else each for each in response.result]
        given = replace(response, result=result)
    if run.records[-1].action == "interrupt":
        update[HELD_KEY] = hold(given.result)
        update[_STRUCTURED_KEY] = given.structured_response
        given = ModelResponse(result=[wait_for_person(message)])
    return ExtendedModelResponse(model_response=given, command=Command(update=update))
