"""The gate over the reference model, for real: agents, graphs, people, threads, loops."""

from __future__ import annotations

import asyncio
import threading
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="the extra with LangChain's agents is missing")

from langchain.agents import create_agent
from langchain_core.decisions import Noul
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from aic_integrations.langchain import (
    ChatAdaptive,
    ConfidenceGate,
    ConfidenceGateChatModel,
    ConfidenceGateRunnable,
    SelfEvaluationDecisionModel,
    gate_records,
)
from aic_integrations.langchain.decision_model import START_OVER
from selfeval_backend.reference.problems import generate_problems

pytestmark = pytest.mark.slow

PROBLEMS = [problem.text for problem in islice(generate_problems("test", seed=3), 12)]


@pytest.fixture(scope="module")
def llm() -> ChatAdaptive:
    return ChatAdaptive(model="reference", max_samples=1, seed=0)


def agent(llm: ChatAdaptive, **settings: Any) -> Any:
    gate = ConfidenceGate(**{"threshold": 0.9, "refusal": "I do not know.", **settings})
    return create_agent(llm, middleware=[gate], checkpointer=InMemorySaver())


def thread(name: object) -> Any:
    return {"configurable": {"thread_id": str(name)}}


def question(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


@pytest.mark.timeout(600)
async def test_an_agent_retries_escalates_and_refuses(llm: ChatAdaptive) -> None:
    strong = ChatAdaptive(model="reference", max_samples=8, adaptive=False, seed=1)
    made = agent(llm, on_low=("retry", "escalate", "refuse"), stronger=strong)
    states = await asyncio.gather(
        *(made.ainvoke(question(text), thread(place)) for place, text in enumerate(PROBLEMS))
    )
    ways = {tuple(record.action for record in gate_records(state)) for state in states}
    assert {("accept",), ("retry", "accept")} <= ways
    for state in states:
        records = gate_records(state)
        last = state["messages"][-1]
        assert len(state["messages"]) == 2
        assert all(record.calibrated and record.usage is not None for record in records)
        paid = sum(record.usage.generated_tokens for record in records if record.usage)
        assert last.usage_metadata["output_tokens"] == paid
        if records[-1].action == "accept":
            assert last.response_metadata["best_of_n"]["confidence"] >= 0.9
            assert "####" in last.text
        else:
            assert last.text == "I do not know."


def test_a_retry_has_more_samples_and_another_seed(llm: ChatAdaptive) -> None:
    gate = ConfidenceGateRunnable(llm, threshold=1.0, on_low=("retry", "accept"), retry_samples=4)
    message = gate.invoke(PROBLEMS[0])
    first, second = gate_records(message)
    assert first.usage is not None and second.usage is not None
    assert second.usage.generated_tokens > first.usage.generated_tokens


@pytest.mark.timeout(600)
async def test_an_agent_streams_only_what_passed(llm: ChatAdaptive) -> None:
    gate = ConfidenceGateChatModel(llm, threshold=0.9, on_low=("retry", "refuse"), max_retries=2)
    made = create_agent(gate, [])

    async def shown(text: str) -> Any:
        stream = made.astream(question(text), stream_mode="messages")
        return reduce(add, [message async for message, _ in stream])

    answers = await asyncio.gather(*map(shown, PROBLEMS))
    assert {len(gate_records(answer)) for answer in answers} > {1}
    for answer in answers:
        records = gate_records(answer)
        passed = records[-1].action == "accept"
        assert answer.text.count("####") == passed
        assert answer.usage_metadata["output_tokens"] == sum(
            record.usage.generated_tokens for record in records if record.usage
        )


def test_a_person_is_asked_and_the_graph_goes_on_where_it_was(llm: ChatAdaptive) -> None:
    made = agent(llm, threshold=1.0, on_low="interrupt")
    waiting = made.invoke(question(PROBLEMS[0]), thread("sync"))
    asked = waiting["__interrupt__"][0].value
    assert "####" in asked["answer"] and 0.0 <= asked["confidence"] < 1.0
    assert "####" not in waiting["messages"][-1].text
    state = made.invoke(Command(resume={"type": "approve"}), thread("sync"))
    assert state["messages"][-1].text == asked["answer"]
    assert [record.action for record in gate_records(state)] == ["interrupt", "accept"]


async def test_a_person_is_asked_asynchronously(llm: ChatAdaptive) -> None:
    made = agent(llm, threshold=1.0, on_low="interrupt")
    await made.ainvoke(question(PROBLEMS[0]), thread("async"))
    state = await made.ainvoke(Command(resume={"type": "reject"}), thread("async"))
    assert state["messages"][-1].text == "I do not know."


@pytest.mark.timeout(600)
def test_many_threads_share_one_agent(llm: ChatAdaptive) -> None:
    made = agent(llm, on_low=("retry", "accept"))
    answers: dict[int, str] = {}

    def work(place: int) -> None:
        asked = (question(PROBLEMS[place % 4]), thread(place))
        state = made.invoke(*asked) if place % 2 else asyncio.run(made.ainvoke(*asked))
        answers[place] = state["messages"][-1].text

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    assert len(answers) == 8
    assert all(answers[place] == answers[place + 4] for place in range(4))


def test_the_decision_model_says_what_the_answer_says(llm: ChatAdaptive) -> None:
    message = llm.invoke(PROBLEMS[0])
    judge = SelfEvaluationDecisionModel(llm=llm)
    questions: Any = {"again": Noul(instructions=START_OVER)}
    judged = judge.invoke({"state": [HumanMessage(PROBLEMS[0]), message], "questions": questions})
    drawn = judge.invoke({"state": PROBLEMS[0], "questions": questions})
    confidence = message.response_metadata["best_of_n"]["confidence"]
    assert judged.nouls["again"].noul == pytest.approx(1.0 - confidence, abs=1e-3)
    assert drawn.nouls["again"].noul == pytest.approx(1.0 - confidence, abs=1e-3)
