"""The self-evaluation as one of LangChain's decision models."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core.decisions", reason="langchain-core is older than 1.8")

from langchain_core.decisions import Choice, Noul, Score
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from aic_integrations.langchain import ChatAdaptive, SelfEvaluationDecisionModel
from aic_integrations.langchain.decision_model import START_OVER
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ConfigurationError, ContextLengthError
from selfeval_backend.model import SelfEvaluatingModel, UncalibratedWarning
from selfeval_backend.selfeval import SelfEvalConfig
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
NOUL = Noul(instructions=START_OVER)
CONVERSATION = [SystemMessage("Be brief."), HumanMessage("Make 41."), AIMessage("forty-one")]


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    """Draws an answer of 0.8; of others it says 0.25."""
    model = make_model(
        [CHAT.response("forty-one", 0.8)], repeat=True, unknown_label_logprobs=(-1.5, -0.4013877)
    )
    return ChatAdaptive.from_model(model)


def ask(judge: SelfEvaluationDecisionModel, state: Any, question: Any = NOUL) -> Any:
    return judge.invoke({"state": state, "questions": {"q": question}}).answers["q"]


@pytest.mark.parametrize(
    "state",
    [CONVERSATION, {"messages": CONVERSATION}, [("human", "Make 41."), ("ai", "forty-one")]],
    ids=["messages", "state", "pairs"],
)
def test_an_answer_is_judged(llm: ChatAdaptive, state: Any) -> None:
    judge = SelfEvaluationDecisionModel(llm=llm)
    assert ask(judge, state).noul == pytest.approx(0.75, abs=0.01)
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    assert llm.backend.engine.stream_calls == []
    (call,) = llm.backend.engine.evaluation_calls
    assert "forty-one" in CHAT.decode(call.token_ids)


@pytest.mark.parametrize("state", ["Make 41.", HumanMessage("Make 41."), CONVERSATION[:2]], ids=str)
def test_of_a_question_an_answer_is_drawn_and_judged(llm: ChatAdaptive, state: Any) -> None:
    judge = SelfEvaluationDecisionModel(llm=llm)
    assert ask(judge, state).noul == pytest.approx(0.2, abs=0.01)
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    (call,) = llm.backend.engine.stream_calls
    assert call.params.temperature == 0.0


def test_a_choice_between_the_labels(llm: ChatAdaptive) -> None:
    question = Choice(instructions=START_OVER, criteria={"large": "hard", "small": None})
    labels = ("small", "large")
    answer = ask(SelfEvaluationDecisionModel(llm=llm, labels=labels), "Make 41.", question)
    assert answer.choice == "small"
    assert answer.probabilities == pytest.approx({"small": 0.8, "large": 0.2}, abs=0.01)
    assert answer.confidence == pytest.approx(0.8, abs=0.01)
    strict = SelfEvaluationDecisionModel(llm=llm, labels=labels, threshold=0.9)
    assert ask(strict, "Make 41.", question).choice == "large"


def test_what_it_cost_is_said(llm: ChatAdaptive) -> None:
    judge = SelfEvaluationDecisionModel(llm=llm)
    assert judge.model == "scripted"
    judged = judge.invoke({"state": CONVERSATION, "questions": {"q": NOUL}})
    assert judged.model == "scripted"
    assert judged.usage is not None and judged.usage["input_tokens"] > 0
    assert judged.usage["output_tokens"] == 0
    drawn = judge.invoke({"state": "Make 41.", "questions": {"q": NOUL, "r": NOUL}})
    assert drawn.usage is not None
    assert drawn.usage["output_tokens"] == len("forty-one") + 1


async def test_asynchronously(llm: ChatAdaptive) -> None:
    judge = SelfEvaluationDecisionModel(llm=llm)
    for state, expected in ((CONVERSATION, 0.75), ("Make 41.", 0.2)):
        response = await judge.ainvoke({"state": state, "questions": {"q": NOUL}})
        assert response.nouls["q"].noul == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (Noul(instructions="Is it urgent?"), "questions['q'].instructions"),
        (Choice(instructions=START_OVER, criteria={"a": 1, "b": 2}), "questions['q'].criteria"),
        (Score(instructions=START_OVER, criteria=["a", "b"]), "questions['q'].type"),
    ],
    ids=["other", "labels", "score"],
)
def test_other_questions_are_refused(llm: ChatAdaptive, question: Any, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(SelfEvaluationDecisionModel(llm=llm), CONVERSATION, question)
    assert caught.value.field == field
    with pytest.raises(ConfigurationError, match="at least one"):
        SelfEvaluationDecisionModel(llm=llm).invoke({"state": "x", "questions": {}})


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"text": "x"},
        [AIMessage("")],
        [HumanMessage("x"), AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])],
        [AIMessage("an answer to nothing")],
        [1],
    ],
    ids=str,
)
def test_states_that_are_no_conversation_are_refused(llm: ChatAdaptive, state: Any) -> None:
    with pytest.raises(ConfigurationError):
        ask(SelfEvaluationDecisionModel(llm=llm), state)


def test_what_does_not_fit_is_refused(make_model: ModelFactory) -> None:
    llm = ChatAdaptive.from_model(make_model([], context_length=100))
    with pytest.raises(ContextLengthError):
        ask(SelfEvaluationDecisionModel(llm=llm), [HumanMessage("x"), AIMessage("y" * 90)])


def test_what_is_not_calibrated_is_refused_or_asked_for() -> None:
    engine = ScriptedEngine([CHAT.response("x", 0.8)], repeat=True)
    with pytest.warns(UncalibratedWarning):
        model = SelfEvaluatingModel(name="raw", engine=engine, chat=CHAT, config=SelfEvalConfig())
    llm = ChatAdaptive.from_model(model)
    with pytest.raises(ConfigurationError, match="allow_uncalibrated"):
        ask(SelfEvaluationDecisionModel(llm=llm), "x")
    allowed = SelfEvaluationDecisionModel(llm=llm, allow_uncalibrated=True)
    assert ask(allowed, "x").noul == pytest.approx(0.2, abs=0.01)


def test_a_model_of_which_nothing_is_known_has_nothing_to_decide_by() -> None:
    engine = ScriptedEngine([CHAT.response("x", 0.8)], repeat=True)
    with pytest.warns(UncalibratedWarning):
        model = SelfEvaluatingModel(name="raw", engine=engine, chat=CHAT, config=None)
    deciding = SelfEvaluationDecisionModel(
        llm=ChatAdaptive.from_model(model), allow_uncalibrated=True
    )
    for state in ("x", [HumanMessage("x"), AIMessage("y")]):
        with pytest.raises(ConfigurationError, match="`aic train`"):
            ask(deciding, state)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"llm": None}, "llm"),
        ({"labels": ("a", "a")}, "labels"),
        ({"threshold": 2}, "threshold"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_construction(
    llm: ChatAdaptive, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SelfEvaluationDecisionModel(**{"llm": llm, **values})
    assert caught.value.field == field


@pytest.mark.filterwarnings("ignore:.*ModelRouterMiddleware.*beta")
def test_it_routes_an_agent(llm: ChatAdaptive, make_model: ModelFactory) -> None:
    pytest.importorskip("langchain.agents", reason="the extra with LangChain's agents is missing")
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware

    large = ChatAdaptive.from_model(make_model([CHAT.response("41", 0.9)], repeat=True, name="l"))

    def answer(threshold: float) -> str:
        router = ModelRouterMiddleware(
            choices={"small": ModelChoice(llm, None), "large": ModelChoice(large, None)},
            instructions=START_OVER,
            classifier=SelfEvaluationDecisionModel(
                llm=llm, labels=("small", "large"), threshold=threshold
            ),
        )
        agent = create_agent(llm, middleware=[router])
        text = agent.invoke({"messages": [HumanMessage("Make 41.")]})["messages"][-1].text
        assert isinstance(text, str)
        return text

    assert answer(0.7) == "forty-one"
    assert answer(0.9) == "41"
