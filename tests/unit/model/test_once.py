"""What a call does once: it checks its messages, builds its settings, and parses each sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend import settings as settings_module
from selfeval_backend.chat import JsonForm, Message, Parsed, ToolSpec
from selfeval_backend.chat import messages as messages_module
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ModelFilesError
from selfeval_backend.grammar import Grammar
from selfeval_backend.settings import Settings
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
QUESTION = [Message(role="user", content="Give JSON.")]


@dataclass(kw_only=True)
class Listening:
    """JSON, and the texts that were parsed."""

    inner: JsonForm = field(default_factory=JsonForm)
    parsed: list[str] = field(default_factory=list)
    shown: tuple[ToolSpec, ...] = ()
    keeps_special_tokens: bool = False

    @property
    def grammar(self) -> Grammar | None:
        return self.inner.grammar

    def parse(self, text: str) -> Parsed:
        self.parsed.append(text)
        return self.inner.parse(text)

    def settled(self, text: str) -> str:
        return self.inner.settled(text)


@pytest.mark.parametrize("streams", [False, True])
async def test_each_sample_is_parsed_once(make_model: ModelFactory, streams: bool) -> None:
    model = make_model([CHAT.response(text, 0.5) for text in ('{"a": 1}', "[", '{"b": 2}')])
    settings, form = model.settings({"adaptive": False, "max_samples": 3}), Listening()
    if streams:
        *_, answer = [item async for item in model.stream(QUESTION, settings, form=form)]
    else:
        answer = await model.answer(QUESTION, settings, form=form)
    assert not isinstance(answer, str) and answer.parsed is not None
    assert answer.parsed.value in ({"a": 1}, {"b": 2})
    assert sorted(form.parsed) == ["[", '{"a": 1}', '{"b": 2}']


def test_messages_are_checked_once(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[object] = []
    check_turns = messages_module.check_turns
    monkeypatch.setattr(
        messages_module, "check_turns", lambda turns: (checked.append(turns), check_turns(turns))
    )
    message = ChatAdaptive.from_model(make_model([CHAT.response("yes", 0.9)])).invoke("Is it?")
    assert (message.text, len(checked)) == ("yes", 1)


def test_the_models_own_policy_is_checked_before_anything_is_asked(
    make_model: ModelFactory,
) -> None:
    with pytest.raises(ModelFilesError, match=r"selfeval.json: policy.threshold: got 7"):
        make_model([CHAT.response("yes", 0.9)], policy={"threshold": 7})


def test_a_call_builds_its_settings_once(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[dict[str, Any]] = []

    class Counted(Settings):
        def __init__(self, **values: Any) -> None:
            built.append(values)
            super().__init__(**values)

    model = make_model([CHAT.response("yes", 0.9)], policy={"threshold": 0.8})
    llm = ChatAdaptive.from_model(model, max_samples=2)
    monkeypatch.setattr(settings_module, "Settings", Counted)
    llm.invoke("Is it?")
    assert built == [{"threshold": 0.8, "max_samples": 2}]
