"""A model that is called in the callbacks of its own calls: answered, or refused at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableLambda

from aic_integrations.langchain import AdaptiveLLM as TextAdaptive
from aic_integrations.langchain import ChatAdaptive
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import SelfEvaluatingModel
from tests.conftest import ModelFactory

pytestmark = pytest.mark.timeout(60)

Asking = Callable[[SelfEvaluatingModel, Any], str]


def chat(model: SelfEvaluatingModel, told: Any) -> str:
    return ChatAdaptive.from_model(model, on_progress=told).invoke("?").text


def chat_stream(model: SelfEvaluatingModel, told: Any) -> str:
    stream = ChatAdaptive.from_model(model, on_progress=told).stream("?")
    return "".join(chunk.text for chunk in stream)


def completion(model: SelfEvaluatingModel, told: Any) -> str:
    return TextAdaptive.from_model(model, on_progress=told).invoke("?")


def completion_stream(model: SelfEvaluatingModel, told: Any) -> str:
    return "".join(TextAdaptive.from_model(model, on_progress=told).stream("?"))


def completions(model: SelfEvaluatingModel, told: Any) -> str:
    generations = TextAdaptive.from_model(model, on_progress=told).generate(["?", "?"]).generations
    return generations[1][0].text


def query(model: SelfEvaluatingModel, told: Any) -> str:
    return AdaptiveLLM.from_model(model, on_progress=told).complete("?").text


def query_stream(model: SelfEvaluatingModel, told: Any) -> str:
    return list(AdaptiveLLM.from_model(model, on_progress=told).stream_complete("?"))[-1].text


def asynchronous(model: SelfEvaluatingModel, told: Any) -> str:
    return asyncio.run(ChatAdaptive.from_model(model, on_progress=told).ainvoke("?")).text


def query_asynchronous(model: SelfEvaluatingModel, told: Any) -> str:
    return asyncio.run(AdaptiveLLM.from_model(model, on_progress=told).acomplete("?")).text


def in_notebook(model: SelfEvaluatingModel, told: Any) -> str:
    async def cell() -> str:
        return chat(model, told)

    return asyncio.run(cell())


ASKINGS = [
    chat,
    chat_stream,
    completion,
    completion_stream,
    completions,
    query,
    query_stream,
    asynchronous,
    query_asynchronous,
    in_notebook,
]


@pytest.fixture
def model(make_model: ModelFactory) -> SelfEvaluatingModel:
    return make_model([ScriptedChat().response("forty", 0.99)], repeat=True)


@pytest.mark.parametrize("outer", ASKINGS)
@pytest.mark.parametrize("inner", ASKINGS[:7])
def test_any_call_within_any_call_is_answered(
    model: SelfEvaluatingModel, outer: Asking, inner: Asking
) -> None:
    answers: list[str] = []
    assert outer(model, lambda _: answers.append(inner(model, None))) == "forty"
    assert len(answers) >= 3 and set(answers) == {"forty"}
    assert inner(model, None) == "forty"


@pytest.mark.parametrize("outer", [chat, chat_stream, query, query_stream])
def test_a_callback_may_wait_for_threads_that_call(
    model: SelfEvaluatingModel, outer: Asking
) -> None:
    answers: list[str] = []

    def told(_: object) -> None:
        if not answers:
            work = [lambda: answers.append(chat(model, None))] * 3
            threads = [threading.Thread(target=each) for each in work]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            answers.extend(m.text for m in ChatAdaptive.from_model(model).batch(["a", "b"]))

    assert outer(model, told) == "forty"
    assert answers == ["forty"] * 5


@pytest.mark.parametrize("outer", ASKINGS[:7])
def test_a_callback_that_calls_itself_for_ever_is_refused(
    model: SelfEvaluatingModel, outer: Asking
) -> None:
    def told(_: object) -> None:
        outer(model, told)

    with pytest.raises(ConfigurationError, match="within each other"):
        outer(model, told)
    assert chat(model, None) == "forty"


@pytest.mark.parametrize("outer", ASKINGS)
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)])
def test_what_a_callback_raises_ends_its_call_alone(
    model: SelfEvaluatingModel, outer: Asking, error: BaseException
) -> None:
    def told(_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        outer(model, told)
    assert chat(model, None) == "forty"


def unheard(model: SelfEvaluatingModel) -> str:
    """Ask without the handlers around, which the call would have inherited."""
    return ChatAdaptive.from_model(model).invoke("?", {"callbacks": []}).text


class Inline(BaseCallbackHandler):
    """Calls the model whenever it is told of progress, on the loop itself."""

    run_inline = True

    def __init__(self, model: SelfEvaluatingModel) -> None:
        self.model = model
        self.answers: list[str] = []

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.answers.append(unheard(self.model))


class Elsewhere(Inline):
    """Does so in a thread."""

    run_inline = False


class Asynchronous(AsyncCallbackHandler):
    """Does so from a coroutine."""

    def __init__(self, model: SelfEvaluatingModel) -> None:
        self.model = model
        self.answers: list[str] = []

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.answers.append(unheard(self.model))

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.answers.append(unheard(self.model))


@pytest.mark.parametrize("handler", [Inline, Elsewhere, Asynchronous])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_handler_may_call_the_model(
    model: SelfEvaluatingModel, handler: type[Inline], streamed: bool
) -> None:
    told = handler(model)
    # LangChain tells a stream nothing of its own handlers, but of those of a chain around it.
    chain = RunnableLambda(str) | ChatAdaptive.from_model(model)
    llm = chain.with_config(callbacks=[told])
    text = "".join(c.text for c in llm.stream("?")) if streamed else llm.invoke("?").text
    assert text == "forty"
    assert set(told.answers) == {"forty"}
    assert chat(model, None) == "forty"
