"""Models that load: one silent server, or weights that take long, hold nobody up but who asks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import AICError, ModelFilesError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.model import shared as shared_module
from tests.conftest import ModelFactory

pytestmark = pytest.mark.timeout(60)


class Loader:
    """Loads "quick" at once, "slow" when it is let go, and fails for "broken" as often as told."""

    def __init__(self, make_model: ModelFactory) -> None:
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.num_failures = 1
        self.loaded: list[str] = []
        self._make_model = make_model

    def __call__(self, name: str, **_: object) -> SelfEvaluatingModel:
        if name.startswith("slow"):
            self.began.set()
            assert self.go_on.wait(30)
        if name == "broken" and self.num_failures:
            self.num_failures -= 1
            raise ModelFilesError("it is broken")
        self.loaded.append(name)
        return self._make_model([ScriptedChat().response("forty", 0.99)], repeat=True)


@pytest.fixture
def loader(make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    made = Loader(make_model)
    monkeypatch.setattr(shared_module, "load_model", made)
    monkeypatch.setattr(shared_module, "choose_engine", lambda: "transformers")
    monkeypatch.setattr(shared_module, "_loaded", {})
    yield made
    made.go_on.set()


def test_a_model_that_loads_holds_up_no_synchronous_call_of_another(loader: Loader) -> None:
    waiting = threading.Thread(target=lambda: ChatAdaptive(model="slow").invoke("?"))
    waiting.start()
    assert loader.began.wait(10)
    assert ChatAdaptive(model="quick").invoke("?").text == "forty"
    assert AdaptiveLLM(model="quick").complete("?").text == "forty"
    loader.go_on.set()
    waiting.join()
    assert loader.loaded == ["quick", "slow"]


async def test_models_that_load_hold_up_no_asynchronous_call(loader: Loader) -> None:
    ready = ChatAdaptive(model="quick")
    await ready.ainvoke("?")
    # More than a loop has threads, each of a model of its own.
    waiting = [
        asyncio.create_task(ChatAdaptive(model=f"slow-{place}").ainvoke("?")) for place in range(40)
    ]
    while not loader.began.is_set():
        await asyncio.sleep(0.01)
    began = time.monotonic()
    assert (await ready.ainvoke("?")).text == "forty"
    assert (await ChatAdaptive(model="quick-too").ainvoke("?")).text == "forty"
    assert (await AdaptiveLLM(model="quick").acomplete("?")).text == "forty"
    assert await asyncio.to_thread(lambda: 7) == 7
    assert time.monotonic() - began < 10
    assert not any(task.done() for task in waiting)
    loader.go_on.set()
    assert {answer.text for answer in await asyncio.gather(*waiting)} == {"forty"}


@pytest.mark.parametrize("engine", [None, "transformers"])
async def test_who_asks_at_once_gets_one_copy(loader: Loader, engine: str | None) -> None:
    llms = [ChatAdaptive(model="slow"), ChatAdaptive(model="slow", engine=engine)]
    asked = [asyncio.create_task(llm.ainvoke("?")) for llm in llms * 5]
    threads = [threading.Thread(target=llm.invoke, args=("?",)) for llm in llms]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(loader.began.wait, 10)
    asked[0].cancel()  # whoever asked first may go
    loader.go_on.set()
    await asyncio.gather(*asked, return_exceptions=True)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert loader.loaded == ["slow"]
    assert (await llms[0]._aloaded_model()) is (await llms[1]._aloaded_model())


def test_a_load_that_failed_is_tried_again_by_the_next_call(loader: Loader) -> None:
    llm = ChatAdaptive(model="broken")
    with pytest.raises(ModelFilesError):
        llm.invoke("?")
    assert llm.invoke("?").text == "forty"


async def test_a_load_that_failed_asynchronously_is_tried_again(loader: Loader) -> None:
    llm = ChatAdaptive(model="broken")
    results = await asyncio.gather(*(llm.ainvoke("?") for _ in range(3)), return_exceptions=True)
    assert any(isinstance(result, AICError) for result in results)
    assert (await llm.ainvoke("?")).text == "forty"


def test_a_load_that_was_interrupted_is_done_by_who_waits(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str, **_: object) -> SelfEvaluatingModel:
        monkeypatch.setattr(shared_module, "load_model", loader)
        loader.began.set()
        loader.go_on.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(shared_module, "load_model", interrupted)
    answers: list[str] = []
    llm = ChatAdaptive(model="quick")

    def wait() -> None:
        loader.began.wait(10)
        answers.append(llm.invoke("?").text)

    waiting = threading.Thread(target=wait)
    waiting.start()
    threading.Timer(0.2, loader.go_on.set).start()
    with pytest.raises(KeyboardInterrupt):
        llm.invoke("?")
    waiting.join()
    assert answers == ["forty"]
