"""How a model's makers say that it is to be sampled, and who goes before them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from selfeval_backend import Message, SelfEvaluatingModel
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ConfigurationError, ModelFilesError
from selfeval_backend.model import read_generation_config
from selfeval_backend.selfeval import SelfEvalConfig

QUESTION = [Message(role="user", content="Which?")]
MAKERS = {"temperature": 0.5, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def write(body: object) -> Path:
        (tmp_path / "generation_config.json").write_text(json.dumps(body), encoding="utf-8")
        return tmp_path

    return write


def test_only_what_says_how_a_token_is_drawn_is_read(write: Callable[[object], Path]) -> None:
    body = {"do_sample": False, "eos_token_id": [1, 2], "max_new_tokens": 7, "min_p": None}
    assert read_generation_config(write({**body, **MAKERS})) == MAKERS


def test_a_model_without_the_file_says_nothing(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "no JSON object"),
        ({"temperature": 7}, "temperature: got 7"),
        ({"top_p": "0.9"}, "top_p: got '0.9'"),
        ({"top_k": 2.5}, "top_k: got 2.5"),
        ({"min_p": -1}, "min_p: got -1"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(
    write: Callable[[object], Path], body: object, said: str
) -> None:
    folder = write(body)
    with pytest.raises(ModelFilesError, match="Mend it, or remove it") as caught:
        read_generation_config(folder)
    assert str(folder / "generation_config.json") in str(caught.value)
    assert said in str(caught.value)


def model(
    *, policy: dict[str, object] | None = None, takes_min_p: bool = True, **makers: float
) -> SelfEvaluatingModel:
    chat = ScriptedChat()
    responses = [chat.response("one", 0.1), chat.response("two", 0.2)]
    return SelfEvaluatingModel(
        name="made",
        engine=ScriptedEngine(responses, takes_min_p=takes_min_p),
        chat=chat,
        config=SelfEvalConfig(policy=policy or {}),
        generation_config=makers,
    )


@pytest.mark.filterwarnings("ignore::selfeval_backend.UncalibratedWarning")
def test_samples_are_drawn_as_the_makers_say_unless_somebody_else_does() -> None:
    made = model(policy={"top_p": 0.95, "max_samples": 2}, **MAKERS)
    answer = asyncio.run(made.answer(QUESTION, made.settings({"min_p": 0.05})))
    drawn = {"top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    engine = made.engine
    assert isinstance(engine, ScriptedEngine)
    assert [call.params.shaping for call in engine.stream_calls] == [drawn, drawn]
    assert [call.params.temperature for call in engine.stream_calls] == [0.0, 0.25]
    summary = answer.summary()
    assert {name: summary["policy"][name] for name in drawn} == drawn
    assert summary["policy_sources"] == {
        "max_samples": "selfeval.json",
        "min_p": "given",
        "repetition_penalty": "generation_config.json",
        "temperature": "generation_config.json",
        "top_k": "generation_config.json",
        "top_p": "selfeval.json",
    }
    assert answer.outcome.trace.shaping == drawn


@pytest.mark.filterwarnings("ignore::selfeval_backend.UncalibratedWarning")
def test_an_engine_that_refuses_min_p_says_so_before_any_token() -> None:
    made = model(takes_min_p=False, min_p=0.1)
    with pytest.raises(ConfigurationError, match="refuses it") as caught:
        asyncio.run(made.answer(QUESTION))
    assert caught.value.field == "min_p"
    answer = asyncio.run(made.answer(QUESTION, made.settings({"min_p": 0.0, "max_samples": 1})))
    assert answer.text
