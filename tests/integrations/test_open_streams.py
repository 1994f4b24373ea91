"""Streams that are open when their event loop, or the interpreter, ends: closed without a word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.children import run_child
from tests.plain_server import PlainServer, serving_plainly

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.slow,  # an interpreter for each
]

SERVER = """
from selfeval_backend.engine.server import connect_server_engine
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.sync import run_sync
chat, engine = ScriptedChat(), run_sync(connect_server_engine(sys.argv[1]))
"""
SCRIPTED = """
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
chat = ScriptedChat()
engine = ScriptedEngine([chat.response("A" * 200, delay_s=0.01)], repeat=True)
"""
TRANSFORMERS = """
from selfeval_backend.model import load_model
loaded = load_model("reference", engine="transformers")
chat, engine = loaded.chat, loaded.engine
"""
PRELUDE = """
import asyncio, gc, sys, warnings
from selfeval_backend.chat import Message
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
QUESTION = [Message(role="user", content="Use 3, 19 and 25 to make 41.")]
GIVEN = {"max_samples": 1, "max_tokens": 200, "prune_at": ()}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    {engine}
    model = SelfEvaluatingModel(name="x", engine=engine, chat=chat, config=SelfEvalConfig())

def own():
    return model.stream(QUESTION, model.settings(GIVEN))

def langchain():
    from aic_integrations.langchain import ChatAdaptive
    return ChatAdaptive.from_model(model, **GIVEN).astream("?")

def completion():
    from aic_integrations.langchain import AdaptiveLLM
    return AdaptiveLLM.from_model(model, **GIVEN).astream("?")

def chain():
    from aic_integrations.langchain import ChatAdaptive
    from langchain_core.runnables import RunnableLambda
    return (ChatAdaptive.from_model(model, **GIVEN) | RunnableLambda(lambda m: m.text)).astream("?")

def llama_index():
    from aic_integrations.llama_index import AdaptiveLLM
    async def steps():
        async for step in await AdaptiveLLM.from_model(model, **GIVEN).astream_complete("?"):
            yield step
    return steps()

def synchronous():
    from aic_integrations.langchain import ChatAdaptive
    return ChatAdaptive.from_model(model, **GIVEN).stream("?")
"""
ENDS = {
    "kept": """
kept = []
async def main():
    kept.append({stream}())
    await anext(kept[0])
asyncio.run(main())
""",
    "forgotten": """
async def main():
    await anext({stream}())
asyncio.run(main())
""",
    "collected later": """
kept = []
async def main():
    kept.append({stream}())
    await anext(kept[0])
asyncio.run(main())
kept.clear()
gc.collect()
""",
    "several": """
kept = []
async def main():
    kept.extend({stream}() for _ in range(4))
    for stream in kept:
        await anext(stream)
asyncio.run(main())
""",
    "a task": """
kept = []
async def read():
    async for item in {stream}():
        kept.append(item)
async def main():
    reading = asyncio.create_task(read())
    while not kept:
        await asyncio.sleep(0)
asyncio.run(main())
""",
    "an error": """
async def main():
    stream = {stream}()
    await anext(stream)
    raise SystemExit(0)
asyncio.run(main())
""",
    "synchronous": """
kept = [{stream}() for _ in range(3)]
for s in kept:
    next(s)
""",
    "a call": """
async def main():
    asyncio.create_task(model.answer(QUESTION, model.settings(GIVEN)))
    await asyncio.sleep(0.05)
asyncio.run(main())
""",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PlainServer]:
    with serving_plainly(token_s=0.01) as made:
        yield made


def left_open(engine: str, stream: str, end: str, *arguments: str) -> tuple[int, str]:
    prelude = PRELUDE.replace("{engine}", "\n    ".join(engine.strip().splitlines()))
    ended = run_child(prelude + ENDS[end].replace("{stream}", stream), *arguments)
    return ended.status, ended.stderr


@pytest.mark.parametrize("end", [end for end in ENDS if end != "synchronous"])
def test_a_servers_stream_ends_quietly_with_its_loop(server: PlainServer, end: str) -> None:
    assert left_open(SERVER, "own", end, server.base_url) == (0, "")


@pytest.mark.parametrize("stream", ["langchain", "completion", "chain", "llama_index"])
def test_an_adapters_stream_ends_quietly_with_its_loop(server: PlainServer, stream: str) -> None:
    for end in ("kept", "forgotten"):
        assert left_open(SERVER, stream, end, server.base_url) == (0, "")


@pytest.mark.parametrize("end", ["kept", "several"])
def test_a_scripted_stream_ends_quietly_with_its_loop(end: str) -> None:
    assert left_open(SCRIPTED, "own", end) == (0, "")


@pytest.mark.parametrize("stream", ["own", "langchain"])
def test_a_stream_of_this_process_ends_quietly_with_its_loop(stream: str) -> None:
    status, said = left_open(TRANSFORMERS, stream, "several")
    bars = [line for line in said.splitlines() if line and not line.startswith("Loading weights")]
    assert (status, bars) == (0, [])


@pytest.mark.parametrize("engine", [SERVER, SCRIPTED], ids=["server", "scripted"])
def test_a_synchronous_stream_ends_quietly_with_the_interpreter(
    server: PlainServer, engine: str
) -> None:
    assert left_open(engine, "synchronous", "synchronous", server.base_url) == (0, "")
