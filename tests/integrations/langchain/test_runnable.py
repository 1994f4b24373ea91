"""What LangChain wraps around any chat model: retries, fallbacks, rates, the environment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField

from aic_integrations.langchain import AdaptiveLLM, ChatAdaptive
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, StreamCall
from selfeval_backend.errors import ConfigurationError, EngineConnectionError, NoFinishedSampleError
from tests.conftest import ModelFactory

CHAT = ScriptedChat()


def engine_of(llm: ChatAdaptive) -> ScriptedEngine:
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    return llm.backend.engine


@pytest.fixture
def flaky(make_model: ModelFactory) -> ChatAdaptive:
    """Fails at the first call, before any sample has finished."""

    def script(call: StreamCall) -> Any:
        first = call.ordinal == 0
        dropped = EngineConnectionError("dropped")
        return CHAT.response("at last", 0.95, fail_after=0 if first else None, error=dropped)

    return ChatAdaptive.from_model(make_model(script), max_samples=1)


@pytest.fixture
def sound(make_model: ModelFactory) -> ChatAdaptive:
    model = make_model([CHAT.response("sound", 0.95)], repeat=True, name="sound")
    return ChatAdaptive.from_model(model)


def test_retries(flaky: ChatAdaptive) -> None:
    retrying = flaky.with_retry(
        retry_if_exception_type=(NoFinishedSampleError,),
        wait_exponential_jitter=False,
        stop_after_attempt=2,
    )
    assert retrying.invoke("x").content == "at last"
    assert len(engine_of(flaky).stream_calls) == 2


async def test_fallbacks_keep_their_metadata(flaky: ChatAdaptive, sound: ChatAdaptive) -> None:
    message = flaky.with_fallbacks([sound]).invoke("x")
    assert message.response_metadata["model_name"] == "sound"
    assert message.response_metadata["best_of_n"]["num_samples"] == 1


async def test_fallbacks_of_a_stream(make_model: ModelFactory, sound: ChatAdaptive) -> None:
    failing = [CHAT.response("never", fail_after=0)] * 2
    never = ChatAdaptive.from_model(make_model(failing), max_samples=1)
    chain = never.with_fallbacks([sound])
    assert "".join(chunk.text for chunk in chain.stream("x")) == "sound"
    assert "".join([chunk.text async for chunk in chain.astream("x")]) == "sound"


def test_bad_input_is_not_worth_a_retry(sound: ChatAdaptive) -> None:
    retrying = sound.with_retry(retry_if_exception_type=(NoFinishedSampleError,))
    with pytest.raises(ConfigurationError):
        retrying.invoke(" ")
    assert engine_of(sound).stream_calls == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_rate_limiter_is_asked_once_a_call(sound: ChatAdaptive, streamed: bool) -> None:
    asked: list[bool] = []

    class Counting(InMemoryRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

    limited = sound.model_copy(update={"rate_limiter": Counting()})
    if streamed:
        list(limited.stream("x"))
    else:
        limited.invoke("x")
        asyncio.run(limited.ainvoke("x"))
    assert asked == [True] * (1 if streamed else 2)


def test_fields_and_alternatives_are_configurable(
    sound: ChatAdaptive, make_model: ModelFactory
) -> None:
    other = ChatAdaptive.from_model(make_model([CHAT.response("other", 0.95)], name="other"))
    chosen = sound.configurable_alternatives(ConfigurableField(id="llm"), other=other)
    assert chosen.invoke("x").content == "sound"
    message = chosen.invoke("x", config={"configurable": {"llm": "other"}})
    assert message.response_metadata["model_name"] == "other"
    field = ConfigurableField(id="n")
    streamed = list(
        sound.configurable_fields(max_samples=field).stream("x", config={"configurable": {"n": 3}})
    )
    assert streamed[-1].response_metadata["best_of_n"]["policy"]["max_samples"] == 3


@pytest.mark.parametrize("kind", [ChatAdaptive, AdaptiveLLM])
def test_the_environment_says_where_the_model_runs(
    kind: type[ChatAdaptive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIC_MODEL", "served")
    monkeypatch.setenv("AIC_API_KEY", "a secret")
    monkeypatch.setenv("AIC_BASE_URL", "http://one/v1,http://two/v1")
    llm = kind()
    assert llm.model == "served"
    assert llm.base_url == ("http://one/v1", "http://two/v1")
    assert llm.api_key is not None and llm.api_key.get_secret_value() == "a secret"
    assert "a secret" not in repr(llm)
    assert kind(engine="transformers").base_url is None
    assert kind(base_url=None).base_url is None
    assert kind(model="mine", base_url="http://three/v1").base_url == "http://three/v1"


def test_a_loaded_model_needs_no_environment(
    sound: ChatAdaptive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIC_BASE_URL", "http://one/v1")
    assert sound.backend is not None
    again: BaseChatModel = ChatAdaptive.from_model(sound.backend)
    assert isinstance(again, ChatAdaptive) and again.base_url is None
    assert again.invoke("x").content == "sound"
