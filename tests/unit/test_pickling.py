"""What travels to another process: errors and adapters do, a loaded model does not."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from aic_integrations.langchain import AdaptiveLLM as TextAdaptive
from aic_integrations.langchain import ChatAdaptive, SelfEvaluationDecisionModel
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend import errors
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.types import RunTrace, Usage
from tests.conftest import ModelFactory

TRACE = RunTrace(events=(), samples=(), usage=Usage(generated_tokens=3), engine="x")
GIVEN: dict[str, Any] = {
    "field": "max_samples",
    "value": 0,
    "allowed": "at least 1",
    "package": "vllm",
    "extra": "vllm",
    "message": "it failed",
    "num_prompt_tokens": 1,
    "num_reserved_tokens": 2,
    "context_length": 3,
    "reason": "max_seconds",
    "trace": TRACE,
    "records": (),
    "answer": "forty",
}
ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.AICError)
]


def made_of(error: type[errors.AICError]) -> errors.AICError:
    if error.__init__ is Exception.__init__:
        return error("it failed")
    required = [
        parameter
        for parameter in inspect.signature(error).parameters.values()
        if parameter.default is parameter.empty
    ]
    args = [GIVEN[p.name] for p in required if p.kind is not p.KEYWORD_ONLY]
    return error(*args, **{p.name: GIVEN[p.name] for p in required if p.kind is p.KEYWORD_ONLY})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_travels_with_what_it_carries(error: type[errors.AICError]) -> None:
    made = made_of(error)
    again = pickle.loads(pickle.dumps(made))  # our own bytes
    assert type(again) is error
    assert str(again) == str(made)
    assert vars(again) == vars(made)


@pytest.mark.parametrize("adapter", [ChatAdaptive, TextAdaptive, AdaptiveLLM])
def test_an_adapter_travels_and_looks_its_model_up(make_model: ModelFactory, adapter: Any) -> None:
    model = make_model([ScriptedChat().response("forty", 0.99)], repeat=True)
    llm = adapter.from_model(model, max_samples=3, on_progress=lambda _: None)
    again = pickle.loads(pickle.dumps(llm))  # our own bytes
    assert (again.model, again.max_samples) == (model.name, 3)
    assert again.backend is None
    assert llm.backend is model
    if adapter is ChatAdaptive:
        pickle.dumps(SelfEvaluationDecisionModel(llm=llm))
    assert copy.deepcopy(llm).backend is model


def test_a_loaded_model_does_not_travel(make_model: ModelFactory) -> None:
    model = make_model([])
    with pytest.raises(ConfigurationError, match="Load it there"):
        pickle.dumps(model)
    assert copy.deepcopy(model) is model
