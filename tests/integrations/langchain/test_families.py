"""Agents with a system prompt and tools run on the template of every family."""

from __future__ import annotations

import re
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import ChatTemplate
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse, StreamCall
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from tests.chat_templates import FAMILIES, chat_of

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

OPENED = (("<think>\n", "</think>\n\n"), ("[THINK]", "[/THINK]"))
"""What a prompt may end with, and what then ends a thought."""

CALL = '{"name": "double", "arguments": {"n": 4}}'


def double(n: int) -> str:
    """Double a number."""
    return f"twice {n} is {2 * n}"


def model_of(chat: ChatTemplate, prompts: list[str]) -> ChatAdaptive:
    """Return a model that calls the tool first, then says what it was told, and keeps prompts."""

    def script(call: StreamCall) -> ScriptedResponse:
        prompt = chat.decode(call.prompt_ids, keep_special_tokens=True)
        prompts.append(prompt)
        told = prompt.count("twice 4 is 8")
        asked = prompt.count("Double 4.")
        thought = next((f"Easy.{end}" for tag, end in OPENED if prompt.endswith(tag)), "")
        text = thought + ("It is 8." if told >= asked else CALL)
        return ScriptedResponse(
            token_ids=chat.response_ids(text), label_logprobs=(-0.1, -3.0), finish_reason="stop"
        )

    engine = ScriptedEngine(script, repeat=True, context_length=100_000)
    config = SelfEvalConfig()
    model = SelfEvaluatingModel(name="double", engine=engine, chat=chat, config=config)
    return ChatAdaptive.from_model(model, max_samples=1)


@pytest.mark.filterwarnings("ignore::selfeval_backend.UncalibratedWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_an_agent_calls_a_tool_in_every_turn(name: str) -> None:
    prompts: list[str] = []
    agent: Any = create_agent(
        model_of(chat_of(FAMILIES[name]), prompts), [double], system_prompt="Be exact."
    )
    messages: list[Any] = []
    for turn in (1, 2):
        asked = [*messages, HumanMessage("Double 4.")]
        messages = agent.invoke({"messages": asked})["messages"]
        assert messages[-1].content == "It is 8."
        assert [m.content for m in messages].count("twice 4 is 8") == turn
    assert all(prompt.count("Be exact.") == 1 for prompt in prompts)
    ids = [call["id"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert [m.tool_call_id for m in messages if isinstance(m, ToolMessage)] == ids
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call_id) for call_id in ids)
