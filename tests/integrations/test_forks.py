"""A process that has used a model, and forks: servers' models work on, others are refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from selfeval_backend.model import REFERENCE_FOLDER
from tests.children import run_child
from tests.plain_server import PlainServer, serving_plainly

pytestmark = [
    pytest.mark.slow,  # an interpreter for each
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no fork"),
]

PRELUDE = """
import asyncio, gc, multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import Message
from selfeval_backend.errors import ConfigurationError

QUESTION = [Message(role="user", content="?")]

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except SystemExit:
            raise  # of a child of its own, on its way out
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit(0)  # through everything that ends an interpreter
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"

def refused(function):
    began = time.monotonic()
    try:
        function()
    except ConfigurationError as error:
        assert error.field == "engine" and "spawn" in str(error), error
    else:
        raise AssertionError("it was not refused")
    assert time.monotonic() - began < 2
"""

WITH_SERVER = """
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.engine.server import connect_server_engine
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.sync import run_sync

url = sys.argv[1]

def connected():
    engine = run_sync(connect_server_engine(url))
    chat = ScriptedChat()
    return SelfEvaluatingModel(name="reference", engine=engine, chat=chat, config=SelfEvalConfig())

model = connected()
llm = ChatAdaptive.from_model(model, max_samples=2, max_tokens=4, prune_at=())
other = ChatAdaptive.from_model(connected(), max_samples=1, max_tokens=3, prune_at=())
""" + (
    USE := """
def use():
    assert llm.invoke("?").text
    assert "".join(chunk.text for chunk in llm.stream("?"))
    assert asyncio.run(llm.ainvoke("?")).text
    async def read():
        return [chunk async for chunk in llm.astream("?")]
    assert asyncio.run(read())
    assert other.invoke("?").text
"""
)


@pytest.fixture(scope="module")
def server() -> Iterator[PlainServer]:
    with serving_plainly() as made:
        yield made


@pytest.mark.parametrize(
    "fork",
    [
        "use(); in_child(use); use()",
        "in_child(use); use()",
        "use(); in_child(lambda: in_child(use)); use()",
        "use(); in_child(lambda: [asyncio.run(model.aclose())]); use()",
        "use(); in_child(lambda: (model.__dict__.clear(), gc.collect())); use()",
        # Open streams of the parent, which the child forgets, closes or reads.
        "s = llm.stream('?'); next(s); in_child(lambda: (globals().pop('s'), gc.collect(), use()));"
        "list(s); use()",
        "s = llm.stream('?'); next(s); in_child(lambda: (s.close(), use())); list(s); use()",
        # Calls of other threads at that time, which import nothing any more: a child waits for ever
        # for a module that another thread was importing, whoever imports it (CPython).
        "use(); ts = [threading.Thread(target=use) for _ in range(4)]; [t.start() for t in ts];"
        "[in_child(use) for _ in range(4)]; [t.join() for t in ts]; use()",
        # As others fork.
        "use(); p = multiprocessing.get_context('fork').Process(target=use); p.start(); p.join();"
        "assert p.exitcode == 0; use()",
        "use()\nwith multiprocessing.get_context('fork').Pool(2) as p: p.map(abs, [1])\nuse()",
    ],
)
def test_a_servers_model_works_on_in_parent_and_child(server: PlainServer, fork: str) -> None:
    ended = run_child(PRELUDE + WITH_SERVER + fork, server.base_url)
    assert (ended.status, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "child",
    [
        "in_child(lambda: (use(), os._exit(0)))",
        # Its child comes back out of the callback, with a copy of the loop.
        "pid = os.fork(); assert pid == 0 or os.waitpid(pid, 0)[1]",
        "p = multiprocessing.get_context('fork').Process(target=use); p.start(); p.join();"
        "assert p.exitcode == 0",
    ],
)
def test_a_callback_may_fork(server: PlainServer, child: str) -> None:
    code = f"""
use()
done = []
def told(_):
    if not done:
        done.append(1)
        {child}
assert llm.model_copy(update={{"on_progress": told}}).invoke("?").text
use()
"""
    ended = run_child(PRELUDE + WITH_SERVER + code, server.base_url)
    assert (ended.status, ended.stderr) == (0, "")


def test_a_model_that_is_named_works_on_and_a_load_of_another_thread_is_begun_again(
    server: PlainServer,
) -> None:
    code = """
given = {"max_samples": 2, "max_tokens": 4, "prune_at": ()}
llm = ChatAdaptive(model="reference", base_url=sys.argv[1], **given)
other = ChatAdaptive(model="reference", base_url=sys.argv[1], max_retries=1, **given)
silent = ChatAdaptive(model="reference", base_url=sys.argv[2])
llm._loaded_model()
threading.Thread(target=lambda: silent.invoke("?"), daemon=True).start()
threading.Thread(target=use).start()
time.sleep(0.1)
in_child(use)
use()
sys.stdout.flush()
os._exit(0)
"""
    with serving_plainly(silent=True) as silent:
        ended = run_child(PRELUDE + USE + code, server.base_url, silent.base_url, within_s=100)
    assert (ended.status, ended.stderr) == (0, "")


IN_PROCESS = """
from selfeval_backend.model import load_model
name = sys.argv[1]
llm = ChatAdaptive(model="reference", engine=name, max_samples=2, max_tokens=8, prune_at=())
model = llm._loaded_model()
def use():
    assert llm.invoke("?").text is not None

def refuse():
    refused(lambda: llm.invoke("?"))
    refused(lambda: list(llm.stream("?")))
    refused(lambda: asyncio.run(llm.ainvoke("?")))
    async def read():
        return [chunk async for chunk in llm.astream("?")]
    refused(lambda: asyncio.run(read()))
    refused(lambda: asyncio.run(model.judge(QUESTION, "!")))
    for engine in ("transformers", "vllm"):
        refused(lambda: load_model("reference", engine=engine))
    refused(lambda: ChatAdaptive(model=sys.argv[2], engine=name).invoke("?"))
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_model_of_this_process_is_refused_in_a_child_and_the_parent_goes_on(engine: str) -> None:
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    code = """
in_child(refuse)  # it was loaded, and never used
use()
in_child(refuse)
threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
in_child(refuse)
[thread.join() for thread in threads]
s = llm.stream("?")
next(s)
in_child(lambda: (s.close(), asyncio.run(model.aclose()), refuse()))
in_child(lambda: (globals().pop("model"), globals().pop("s"), gc.collect()))
list(s)
use()
"""
    folder = str(REFERENCE_FOLDER)
    ended = run_child(PRELUDE + IN_PROCESS + code, engine, folder, within_s=500)
    assert ended.status == 0, ended.stderr
    assert "Traceback" not in ended.stderr  # bars of what is loaded do stand there


def test_a_scripted_model_works_on_in_a_child() -> None:
    code = """
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
chat = ScriptedChat()
engine = ScriptedEngine([chat.response("forty", 0.9)], repeat=True)
llm = ChatAdaptive.from_model(
    SelfEvaluatingModel(name="x", engine=engine, chat=chat, config=SelfEvalConfig()), max_samples=2
)
def use():
    for _ in range(8):
        assert llm.invoke("?").text == asyncio.run(llm.ainvoke("?")).text == "forty"
use()
threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
for _ in range(5):
    in_child(use)
[thread.join() for thread in threads]
use()
"""
    ended = run_child(PRELUDE + code)
    assert (ended.status, ended.stderr) == (0, "")
