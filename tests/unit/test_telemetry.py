"""The names under which a run stands in traces."""

from __future__ import annotations

from typing import Any

import pytest

from selfeval_backend.telemetry import call_attributes, sample_events
from tests.conftest import ModelFactory


@pytest.fixture
async def summary(make_model: ModelFactory, chat: Any) -> dict[str, Any]:
    model = make_model([chat.response("no", 0.2), chat.response("yes", {2: 0.6, 3: 0.9})])
    from selfeval_backend.chat import Message

    settings = model.settings(
        {"max_samples": 2, "prune_at": (2,), "seed": 1, "stop": ("x",), "top_k": 20, "min_p": 0.1}
    )
    answer = await model.answer([Message(role="user", content="Make 41.")], settings)
    return answer.summary()


def test_a_call_has_the_names_of_the_convention(summary: dict[str, Any]) -> None:
    attributes = call_attributes(summary, model="double")
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.response.model"] == "double"
    assert attributes["gen_ai.request.choice.count"] == 2
    assert attributes["gen_ai.request.seed"] == 1
    assert attributes["gen_ai.request.stop_sequences"] == ["x"]
    assert attributes["gen_ai.request.top_k"] == 20
    assert attributes["aic.request.min_p"] == 0.1
    assert attributes["aic.request.repetition_penalty"] == 1.0
    assert attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert attributes["gen_ai.usage.output_tokens"] == summary["tokens"]["generated_tokens"]
    assert attributes["aic.confidence"] == pytest.approx(0.9)
    assert attributes["aic.calibrated"] is True
    assert "gen_ai.request.max_tokens" not in attributes
    assert all(isinstance(v, str | bool | int | float | list) for v in attributes.values())


def test_input_and_output_are_what_langchain_is_told(summary: dict[str, Any]) -> None:
    attributes = call_attributes(summary, model="double")
    tokens = summary["tokens"]
    total = int(attributes["gen_ai.usage.input_tokens"]) + int(  # type: ignore[arg-type]  # a number
        attributes["gen_ai.usage.output_tokens"]  # type: ignore[arg-type]  # a number
    )
    assert total == tokens["total"] + tokens["cached_self_evaluation_tokens"]


def test_every_sample_and_every_self_evaluation_is_an_event(summary: dict[str, Any]) -> None:
    events = list(sample_events(summary))
    assert [event.name for event in events].count("aic.sample") == summary["num_samples"]
    evaluations = [e for e in events if e.name == "gen_ai.evaluation.result"]
    assert len(evaluations) == sum(len(s["evaluations"]) for s in summary["samples"])
    assert evaluations[-1].attributes["gen_ai.evaluation.score.value"] == pytest.approx(0.9)
    assert {event.attributes["aic.sample.index"] for event in events} == {0, 1}


def test_content_is_off_unless_asked_for(summary: dict[str, Any]) -> None:
    with_texts = {**summary, "texts": ["no", "yes"]}
    assert "yes" not in str(list(sample_events(with_texts)))
    assert "yes" in str(list(sample_events(with_texts, content=True)))
    assert "Make 41." not in str(call_attributes(with_texts, model="double"))
