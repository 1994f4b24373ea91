"""A running vLLM server behind the adapter: the real one, and ones that misbehave."""

import asyncio
import json
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import trustme
from pydantic import BaseModel, Field

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.engine.server import ServerEngine, connect_server_engine
from selfeval_backend.engine.server.engine import ABORT_PATH
from selfeval_backend.errors import (
    ConfigurationError,
    EngineClosedError,
    EngineConnectionError,
    EngineRequestError,
    EngineResponseError,
    EngineTimeoutError,
    SelfEvaluationError,
)
from selfeval_backend.model import REFERENCE_FOLDER, SelfEvaluatingModel, Server, load_model
from selfeval_backend.selfeval import SelfEvalConfig
from tests.plain_server import serving_plainly
from tests.vllm_server import VllmServer, start_vllm_server

PROMPT = "Use 3, 19 and 25 to make 41, then 8 and 12 to make 20."


def load_reference(engine: Engine) -> SelfEvaluatingModel:
    return SelfEvaluatingModel(
        name="reference",
        engine=engine,
        chat=ChatTemplate.load(REFERENCE_FOLDER),
        config=SelfEvalConfig.load(REFERENCE_FOLDER),
    )


@pytest.fixture
async def model(vllm_server: VllmServer) -> AsyncIterator[SelfEvaluatingModel]:
    server = Server(base_url=vllm_server.base_url)
    loaded = await asyncio.to_thread(load_model, "reference", server=server)
    yield loaded
    await loaded.aclose()


@pytest.mark.slow
def test_a_base_url_is_enough(vllm_server: VllmServer) -> None:
    llm = ChatAdaptive(model="reference", base_url=vllm_server.base_url, seed=0)
    message = llm.invoke(PROMPT)
    facts = message.response_metadata["best_of_n"]
    assert "####" in message.content
    assert facts["engine"] == "vllm-server"
    assert facts["calibrated"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_has_defaults_of_its_own_draws_as_it_is_asked_to(
    vllm_server: VllmServer,
) -> None:
    own = {"temperature": 0.1, "top_k": 1, "min_p": 0.9, "repetition_penalty": 4.0}
    drawn = []
    with start_vllm_server("--override-generation-config", json.dumps(own)) as other:
        for url in (vllm_server.base_url, other.base_url):
            model = load_model("reference", server=Server(base_url=url))
            asked = {"max_samples": 16, "adaptive": False, "prune_at": (), "seed": 0}
            asked["temperature"] = 2.0  # the model is nearly sure of this prompt
            prompt = [Message(role="user", content=PROMPT)]
            answer = asyncio.run(model.answer(prompt, model.settings(asked)))
            asyncio.run(model.aclose())
            drawn.append([sample.token_ids for sample in answer.outcome.samples])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


@pytest.mark.slow  # the reference model's tokenizer
@pytest.mark.filterwarnings("ignore::UserWarning")  # of what the server cannot do
def test_a_servers_model_is_sampled_as_its_files_say(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REFERENCE_FOLDER, tmp_path / "model"))
    file = folder / "generation_config.json"
    makers = {"temperature": 0.8, "top_k": 20, "repetition_penalty": 1.1}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | makers), "utf-8")
    with serving_plainly() as server:
        llm = ChatAdaptive(model="reference", base_url=server.base_url, model_files=str(folder))
        message = llm.invoke(PROMPT, max_samples=1, annealing="constant", max_tokens=3, prune_at=())
    sent = server.bodies[-2]  # before the question
    assert {name: sent[name] for name in makers} == makers
    assert (sent["top_p"], sent["min_p"]) == (1.0, 0.0)
    sources = message.response_metadata["best_of_n"]["policy_sources"]
    assert {name for name in sources if sources[name] == "generation_config.json"} == set(makers)


class Signs(BaseModel):
    """Signs of a sum."""

    first: Literal["+", "-"]
    count: int = Field(ge=0, le=99)


@pytest.mark.slow
def test_an_answer_in_a_schema(vllm_server: VllmServer) -> None:
    llm = ChatAdaptive(
        model="reference", base_url=vllm_server.base_url, seed=0, max_samples=4, max_tokens=80
    )
    found = llm.with_structured_output(Signs, include_raw=True).invoke(PROMPT)
    assert isinstance(found, dict)
    assert isinstance(found["parsed"], Signs)
    assert found["raw"].response_metadata["best_of_n"]["valid"] is True


@pytest.mark.slow
async def test_what_a_server_does_with_grammars_is_seen(vllm_server: VllmServer) -> None:
    engine = await connect_server_engine(vllm_server.base_url)
    assert engine.facts.takes_grammars
    assert engine.capabilities.takes_grammars
    await engine.aclose()


@pytest.mark.slow
async def test_greedy_gives_the_same_text_as_transformers(model: SelfEvaluatingModel) -> None:
    here = await asyncio.to_thread(load_model, "reference", engine="transformers")
    texts = []
    for each in (model, here):
        settings = each.settings({"max_samples": 1, "prune_at": (), "seed": 0})
        answer = await each.answer([Message(role="user", content=PROMPT)], settings)
        texts.append(answer.text)
    await here.aclose()
    assert texts[0] == texts[1]


@pytest.mark.slow
async def test_evaluations_read_the_full_blocks_of_their_sample(
    model: SelfEvaluatingModel,
) -> None:
    settings = model.settings({"max_samples": 4, "adaptive": False, "prune_at": (48,), "seed": 0})
    answer = await model.answer([Message(role="user", content=PROMPT)], settings)
    usage = answer.outcome.usage
    assert usage.cached_self_evaluation_tokens >= 32 * usage.self_evaluations
    assert usage.pruned_tokens > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"prune_at": (16, 32), "keep_fraction": 0.5}, {"stop": ("short",)}]
)
async def test_every_token_that_the_server_generated_is_counted(
    model: SelfEvaluatingModel, vllm_server: VllmServer, given: dict[str, object]
) -> None:
    def generated() -> float:
        return vllm_server.metric("vllm:generation_tokens_total")

    before = generated()
    settings = model.settings({"max_samples": 16, "adaptive": False, "seed": 0, **given})
    answer = await model.answer([Message(role="user", content=PROMPT)], settings)
    usage = answer.outcome.usage
    assert usage.pruned_tokens > 0 or "stop" in given
    assert usage.generated_tokens + usage.self_evaluations == generated() - before


@pytest.mark.slow
async def test_a_server_that_does_not_stream_is_stopped_and_resubmitted_to(
    vllm_server: VllmServer,
) -> None:
    connected = await connect_server_engine(vllm_server.base_url)
    facts = replace(connected.facts, streams_token_ids=False)
    model = load_reference(ServerEngine(connected.client, facts))
    settings = model.settings({"max_samples": 8, "adaptive": False, "prune_at": (32,), "seed": 0})
    answer = await model.answer([Message(role="user", content=PROMPT)], settings)
    outcome = answer.outcome
    assert outcome.trace.engine == "vllm-server (resubmitting)"
    pruned = [s for s in outcome.samples if s.status == "pruned"]
    assert [s.num_generated_tokens for s in pruned] == [32] * 4
    assert outcome.usage.resent_tokens == 4 * (
        len(model.chat.prompt_ids([Message(role="user", content=PROMPT)])) + 32
    )
    assert 0 < outcome.usage.cached_resent_tokens < outcome.usage.resent_tokens
    assert outcome.best_sample.finished
    await model.aclose()


@pytest.mark.slow
async def test_a_cancelled_call_leaves_nothing_running(
    model: SelfEvaluatingModel, vllm_server: VllmServer
) -> None:
    settings = model.settings({"max_samples": 16, "adaptive": False})
    task = asyncio.create_task(model.answer([Message(role="user", content=PROMPT)], settings))
    while vllm_server.metric("vllm:num_requests_running") == 0:
        await asyncio.sleep(0.01)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline = time.monotonic() + 1
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    while any(vllm_server.metric(name) for name in names):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_stream_gives_the_answer_of_a_call(model: SelfEvaluatingModel) -> None:
    given = {"max_samples": 4, "prune_at": (16,), "accept_above": 0.5, "seed": 0}
    settings, asked = model.settings(given), [Message(role="user", content=PROMPT)]
    *pieces, streamed = [item async for item in model.stream(asked, settings)]
    plain = await model.answer(asked, settings)
    assert not isinstance(streamed, str)
    assert "".join(map(str, pieces)) == streamed.text == plain.text
    assert streamed.outcome.best == plain.outcome.best


@pytest.mark.slow
@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_stream_that_is_left_leaves_nothing_running(
    model: SelfEvaluatingModel, vllm_server: VllmServer, how: str
) -> None:
    llm = ChatAdaptive.from_model(model, max_samples=8, adaptive=False, prune_at=8)
    llm = llm.model_copy(update={"keep_fraction": 0.1})  # one is left: it flows
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in llm.astream(PROMPT):
            pieces.append(chunk.text)  # noqa: PERF401  # until it is cancelled

    if how == "cancel":
        task = asyncio.create_task(read())
        while not pieces:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        stream = llm.astream(PROMPT)
        assert (await anext(stream)).text
        await stream.aclose()  # type: ignore[attr-defined]  # a generator
    deadline = time.monotonic() + 1
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    while any([await asyncio.to_thread(vllm_server.metric, name) for name in names]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_another_model_is_refused_by_name(vllm_server: VllmServer) -> None:
    with pytest.raises(ConfigurationError, match=r"model: got 'other'.*reference"):
        await connect_server_engine(vllm_server.base_url, model="other")


# Servers that misbehave. Each gets the path and the body, and how often it was asked before.

Answer = tuple[int, str]
MODELS = json.dumps({"data": [{"id": "m", "max_model_len": 64}]})
LABELS = json.dumps(
    {"choices": [{"logprobs": {"top_logprobs": [{"token_id:0": -1.0, "token_id:1": -2.0}]}}]}
)


@asynccontextmanager
async def serving(
    reply: Callable[[str, dict[str, object], int], Answer],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve replies of (status, body). Status 0 is silence; 206 a stream that breaks off."""
    asked = 0
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1].removeprefix("/v1")
        lengths = [line for line in head.splitlines() if line.lower().startswith("content-length")]
        body = await reader.readexactly(int(lengths[0].split()[1])) if lengths else b"{}"
        status, text = reply(path, json.loads(body), asked)
        asked += 1
        if status == 0:
            await reader.read()
        else:
            streamed = "content-type: text/event-stream\r\n" if text.startswith("data:") else ""
            ending = (
                streamed
                if status == 206
                else (f"{streamed}content-length: {len(text.encode())}\r\n")
            )
            shown = 200 if status == 206 else status
            answer = f"HTTP/1.1 {shown} X\r\nconnection: close\r\n{ending}\r\n{text}"
            writer.write(answer.encode())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.gather(*handlers, return_exceptions=True)


def event(token_ids: list[int], finish_reason: str | None) -> str:
    choice = {"token_ids": token_ids, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def well(path: str, body: dict[str, object]) -> Answer:
    if path == "/models":
        return 200, MODELS
    if path == ABORT_PATH:
        return 403, "Scale-out endpoints are disabled."
    return 200, event([1, 2], "length") + "data: [DONE]\n\n" if body.get("stream") else LABELS


async def test_busy_is_asked_again() -> None:
    def reply(path: str, body: dict[str, object], asked: int) -> Answer:
        return (429, "later") if asked % 2 == 0 else well(path, body)

    async with serving(reply) as url:
        engine = await connect_server_engine(url, max_retries=1)
        assert engine.capabilities.context_length == 63
        await engine.aclose()


async def test_a_server_without_priorities_is_used_without_them_after_a_warning() -> None:
    bodies: list[dict[str, object]] = []

    def reply(path: str, body: dict[str, object], asked: int) -> Answer:
        bodies.append(body)
        if "priority" in body:
            return 400, json.dumps({"error": {"message": "Priority scheduling is not enabled"}})
        return well(path, body)

    async with serving(reply) as url:
        with pytest.warns(UserWarning, match="--scheduling-policy priority"):
            engine = await connect_server_engine(url, max_retries=0)
        params = SamplingParams(temperature=1.0, max_tokens=4, seed=0, stop_token_ids=frozenset())
        assert (await anext(engine.stream((1, 2), params))).token_ids == (1, 2)
        await engine.aclose()
    assert "priority" not in bodies[-1]


async def test_busy_for_ever_is_an_error_with_its_status() -> None:
    async with serving(lambda *_: (503, json.dumps({"error": {"message": "no room"}}))) as url:
        with pytest.raises(EngineRequestError, match="503: no room") as caught:
            await connect_server_engine(url, max_retries=1)
        assert caught.value.status_code == 503


@pytest.mark.parametrize("text", ["<html>", "[]", '{"data": 3}'])
async def test_garbage_is_an_error(text: str) -> None:
    async with serving(lambda *_: (200, text)) as url:
        with pytest.raises(EngineResponseError):
            await connect_server_engine(url, max_retries=0)


async def test_a_server_that_leaves_labels_out_is_refused() -> None:
    def reply(path: str, body: dict[str, object], asked: int) -> Answer:
        status, text = well(path, body)
        return status, text.replace("token_id:1", "b")

    async with serving(reply) as url:
        with pytest.raises(SelfEvaluationError, match=r"\[1\]"):
            await connect_server_engine(url, max_retries=0)


async def test_nobody_there_and_no_url() -> None:
    with pytest.raises(EngineConnectionError, match="could not be reached"):
        await connect_server_engine("http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(ConfigurationError, match="base_url"):
        await connect_server_engine("localhost:8000")


async def test_silence_is_an_error() -> None:
    async with serving(lambda *_: (0, "")) as url:
        with pytest.raises(EngineTimeoutError, match="silent"):
            await connect_server_engine(url, timeout_s=0.2, max_retries=0)


async def test_a_stream_that_is_cut_off_is_not_asked_for_again() -> None:
    streams = 0

    def reply(path: str, body: dict[str, object], asked: int) -> Answer:
        nonlocal streams
        if not body.get("stream") or body["max_tokens"] != 30:
            return well(path, body)
        streams += 1
        return 206, event(list(range(20)), None)

    async with serving(reply) as url:
        engine = await connect_server_engine(url, max_retries=3)
        params = SamplingParams(
            temperature=1.0, max_tokens=30, seed=0, stop_token_ids=frozenset(), checkpoints=(4,)
        )
        seen: list[int] = []

        async def collect() -> None:
            async for chunk in engine.stream((1, 2), params):
                seen.extend(chunk.token_ids)

        with pytest.raises(EngineConnectionError):
            await collect()
        assert seen == list(range(20))
        assert streams == 1
        await engine.aclose()


def test_the_key_is_nowhere_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIC_API_KEY", "hush")
    llm = ChatAdaptive(model="m", base_url="http://127.0.0.1:9/v1")
    assert llm.api_key is not None
    assert llm.api_key.get_secret_value() == "hush"
    assert "hush" not in repr(llm)
    assert "hush" not in repr(Server(base_url="u", api_key="hush"))
    assert "hush" not in str(llm._identifying_params)


async def test_certificates_are_checked_against_the_authorities_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with serving(lambda path, body, _: well(path, body), tls=tls) as url:
        for verify in (str(bundle), False):
            engine = await connect_server_engine(url, verify=verify, max_retries=0)
            assert engine.capabilities.context_length == 63
            await engine.aclose()
        with pytest.raises(EngineConnectionError, match=r"(?i)certificate"):
            await connect_server_engine(url, max_retries=0)
    with pytest.raises(ConfigurationError, match="verify"):
        await connect_server_engine(url, verify=str(tmp_path / "none.pem"))


async def test_a_closed_engine_gives_nothing_more_of_what_has_arrived() -> None:
    with serving_plainly() as server:
        engine = await connect_server_engine(server.base_url)
        sampled = SamplingParams(
            temperature=1.0, max_tokens=40, seed=0, stop_token_ids=frozenset(), chunk_tokens=4
        )
        stream = engine.stream((1, 2, 3), sampled)
        paid = (await anext(stream)).num_generated_tokens
        await asyncio.sleep(0.3)  # the whole sample is there by then
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await anext(stream)
        paid += (await stream.aclose()).num_generated_tokens
    assert paid == 40
