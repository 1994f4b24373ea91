"""`SelfEvaluationDecisionModel`: the self-evaluation as one of LangChain's decision models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.decisions import (
    Answer,
    BaseDecisionModel,
    Choice,
    ChoiceAnswer,
    ClassifierResponse,
    Noul,
    NoulAnswer,
    Question,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from pydantic import ConfigDict

from aic_integrations.langchain.chat_model import ChatAdaptive
from aic_integrations.langchain.messages import PROVIDER, to_messages, to_usage_metadata
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.gate import read_confidence
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import Judgement
from selfeval_backend.sync import run_sync

__all__ = ["START_OVER", "SelfEvaluationDecisionModel"]

START_OVER = "Would starting over give a better answer?"
"""The one question that a self-evaluation answers. The model is asked it in the words that it was
trained on, which stand in its ``selfeval.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What was found out about a state."""

    prob_win_or_tie: float
    calibrated: bool
    usage: UsageMetadata | None


class SelfEvaluationDecisionModel(BaseDecisionModel):
    """Answers one question: would starting over give a better answer?

    ::

        judge = SelfEvaluationDecisionModel(llm=llm)
        question = Noul(instructions=START_OVER)
        answers = judge.invoke({"state": messages, "questions": {"again": question}})
        answers.nouls["again"].noul  # 1 - prob_win_or_tie

    The state is a conversation. If it ends with an answer, that answer is judged, in one forward
    pass. If it ends with a question, one answer is drawn, greedily, and judged: "can this model
    answer it?" That is what a router asks::

        ModelRouterMiddleware(
            choices={"small": ModelChoice(llm, None), "large": ModelChoice(other, None)},
            instructions=START_OVER,
            classifier=SelfEvaluationDecisionModel(llm=llm, labels=("small", "large")),
        )

    A `Noul` gets the probability of yes. A `Choice` between the two `labels` gets
    ``prob_win_or_tie`` for the first, the rest for the second, and picks the first if it reaches
    `threshold`. Other questions are refused: the model was trained for this one.

    Raises:
        ConfigurationError: Construction: a field is out of its range. Calls: a question or a state
            that cannot be judged; or the model is not calibrated, and `allow_uncalibrated` is not
            set.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    llm: ChatAdaptive
    """Whose self-evaluation is asked."""
    labels: tuple[str, str] = ("keep", "start over")
    """Of a `Choice`: the answer is good enough; it is not."""
    threshold: float = 0.5
    """In [0, 1]: least prob_win_or_tie for the first label."""
    allow_uncalibrated: bool = False
    """Whether probabilities that are not calibrated are given out."""

    if not TYPE_CHECKING:  # checkers take the signature from the fields

        def __init__(self, **values: Any) -> None:
            # Here and not in a validator: pydantic would wrap our error into its own.
            _check_fields(values)
            super().__init__(**{"model": values["llm"].model, **values})

    @property
    def _provider(self) -> str:
        return PROVIDER

    def _classify(self, state: Any, questions: dict[str, Question]) -> ClassifierResponse:
        messages = self._checked(state, questions)
        answer = _last_answer(messages)
        if answer is None:
            return self._respond(_drawn(self.llm.invoke(messages, **_ONE_SAMPLE)), questions)
        model = self.llm._loaded_model()
        return self._respond(_judged(run_sync(_judge(model, messages, answer))), questions)

    async def _aclassify(self, state: Any, questions: dict[str, Question]) -> ClassifierResponse:
        messages = self._checked(state, questions)
        answer = _last_answer(messages)
        if answer is None:
            drawn = await self.llm.ainvoke(messages, **_ONE_SAMPLE)
            return self._respond(_drawn(drawn), questions)
        model = await self.llm._aloaded_model()
        return self._respond(_judged(await _judge(model, messages, answer)), questions)

    def _checked(self, state: object, questions: Mapping[str, Question]) -> list[BaseMessage]:
        if not questions:
            raise ConfigurationError("questions", questions, "at least one question")
        for name, question in questions.items():
            _check_question(f"questions[{name!r}]", question, self.labels)
        return _messages(state)

    def _respond(self, found: _Finding, questions: Mapping[str, Question]) -> ClassifierResponse:
        if not found.calibrated and not self.allow_uncalibrated:
            raise ConfigurationError(
                "llm",
                self.llm.model,
                "a model whose self-evaluation is calibrated",
                remedy="Calibrate it (`aic train`), or set allow_uncalibrated=True.",
            )
        answers: dict[str, Answer] = {
            name: self._answer(found, question) for name, question in questions.items()
        }
        return ClassifierResponse(model=self.model, answers=answers, usage=found.usage)

    def _answer(self, found: _Finding, question: Question) -> Answer:
        prob = found.prob_win_or_tie
        if isinstance(question, Noul):
            return NoulAnswer(type="noul", noul=1.0 - prob)
        probabilities = dict(zip(self.labels, (prob, 1.0 - prob), strict=True))
        choice = self.labels[0 if prob >= self.threshold else 1]
        return ChoiceAnswer(
            type="choice",
            choice=choice,
            probabilities=probabilities,
            confidence=probabilities[choice],
        )


_ONE_SAMPLE: dict[str, Any] = {"max_samples": 1, "adaptive": True, "annealing": "annealed"}


async def _judge(
    model: SelfEvaluatingModel, messages: Sequence[BaseMessage], answer: str
) -> Judgement:
    return await model.judge(to_messages(messages[:-1]), answer)


def _judged(judgement: Judgement) -> _Finding:
    return _Finding(
        prob_win_or_tie=judgement.evaluation.prob_win_or_tie,
        calibrated=judgement.evaluation.calibrated,
        usage=to_usage_metadata(judgement.usage),
    )


def _drawn(message: AIMessage) -> _Finding:
    reading = read_confidence(message.response_metadata.get("best_of_n"))
    if reading.confidence is None:
        raise ConfigurationError(
            "llm",
            reading.problem,
            "an answer with a confidence",
            remedy=(
                "Raise max_tokens, max_total_tokens or max_seconds of the chat model where they "
                "leave no room; train it (`aic train`) where it has no selfeval.json."
            ),
        )
    return _Finding(
        # An answer that is none, blank for example, speaks for starting over, whatever it says.
        prob_win_or_tie=reading.confidence if reading.valid else 0.0,
        calibrated=reading.calibrated,
        usage=message.usage_metadata,
    )


def _messages(state: object) -> list[BaseMessage]:
    """Return the conversation that a state is."""
    if isinstance(state, Mapping) and set(state) == {"messages"}:
        state = state["messages"]
    if isinstance(state, str):
        return [HumanMessage(state)]
    if isinstance(state, BaseMessage):
        return [state]
    if isinstance(state, Sequence) and state:
        try:
            return convert_to_messages(state)
        except (NotImplementedError, ValueError) as error:
            raise _no_messages(state) from error
    raise _no_messages(state)


def _no_messages(state: object) -> ConfigurationError:
    return ConfigurationError(
        "state", state, 'a text, a message, a list of messages or {"messages": [...]}'
    )


def _last_answer(messages: Sequence[BaseMessage]) -> str | None:
    """Return the answer that a conversation ends with; None if it ends with a question."""
    last = messages[-1]
    if not isinstance(last, AIMessage):
        return None
    if last.tool_calls or not last.text.strip():
        raise ConfigurationError(
            "state", last.tool_calls or last.text, "an answer with text and without tool calls"
        )
    return last.text


def _check_question(field: str, question: Question, labels: tuple[str, str]) -> None:
    if not isinstance(question, Noul | Choice):
        raise ConfigurationError(
            f"{field}.type", question.type, "a Noul, or a Choice between two labels"
        )
    if question.instructions != START_OVER:
        raise ConfigurationError(
            f"{field}.instructions",
            question.instructions,
            "START_OVER, the one question that a self-evaluation answers",
        )
    if isinstance(question, Choice) and set(question.criteria) != set(labels):
        raise ConfigurationError(
            f"{field}.criteria",
            list(question.criteria),
            f"the two labels {labels[0]!r} (good enough) and {labels[1]!r}",
            remedy="Name your labels at construction: labels=(good_enough, not_good_enough).",
        )


def _check_fields(values: Mapping[str, Any]) -> None:
    llm = values.get("llm")
    if not isinstance(llm, ChatAdaptive):
        raise ConfigurationError("llm", llm, "a ChatAdaptive")
    labels = values.get("labels", ("a", "b"))
    if len(set(labels)) != 2 or len(labels) != 2:
        raise ConfigurationError("labels", labels, "two that differ")
    threshold = values.get("threshold", 0.5)
    if not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise ConfigurationError("threshold", threshold, "a number in [0, 1]")
