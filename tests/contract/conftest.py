"""The engines that the contract suite runs over."""

from __future__ import annotations

import asyncio
import gc
import random
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from selfeval_backend.engine.base import Engine
from selfeval_backend.engine.replicas import connect_replicas
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse, StreamCall
from selfeval_backend.errors import EngineClosedError
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.sync import run_sync
from tests.byte_tokenizer import byte_tokenizer
from tests.vllm_server import VllmServer


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase:
    """An engine, and what may be asked of it."""

    engine: Engine
    prompt: tuple[int, ...]
    """Of at least two tokens, followed by at least 40 generated ones at temperature 0."""
    eos_id: int
    label_ids: tuple[int, ...]
    """At least two distinct ones."""
    question: tuple[int, ...]
    """Asked after a prompt and a (partial) response."""
    decode: Callable[[tuple[int, ...]], str]
    """Tokens to text."""
    compiles_grammars: bool = True
    """Whether it knows of a grammar that it cannot follow it."""


def transformers_case() -> EngineCase:
    """Return a small Llama with random weights."""
    pytest.importorskip("transformers", reason="the extra with transformers is not installed")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from selfeval_backend.engine.transformers import TransformersEngine

    torch.set_num_threads(1)  # with such small matrices threads only wait for each other
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # the default is so small that all tokens are about as likely
    )
    tokenizer = byte_tokenizer()
    return EngineCase(
        engine=TransformersEngine(LlamaForCausalLM(config), tokenizer=lambda: tokenizer),
        decode=lambda token_ids: str(tokenizer.decode(token_ids)),
        prompt=tuple(range(40, 60)),
        eos_id=2,
        label_ids=(7, 3),
        question=(9, 8, 7, 6, 5),
    )


def scripted_case() -> EngineCase:
    """Return a script that draws its tokens from the sample's seed."""

    def script(call: StreamCall) -> ScriptedResponse:
        params = call.params
        if params.grammar is not None:
            text = '{"solved": true, "signs": ["+", "-"]}'
            return ScriptedResponse(token_ids=tuple(map(ord, text)))
        greedy = not params.temperature or params.top_k == 1 or params.min_p == 1
        rng = random.Random("greedy" if greedy else params.seed)
        tokens = list(range(10, 300))
        if params.repetition_penalty > 1:
            tokens = [token for token in tokens if token not in call.prompt_ids]
            drawn = tuple(rng.sample(tokens, params.max_tokens))
        else:
            drawn = tuple(rng.choices(tokens, k=params.max_tokens))
        stop = next((i for i, t in enumerate(drawn) if t in params.stop_token_ids), None)
        num_generated = len(drawn) if stop is None else stop + 1
        return ScriptedResponse(
            token_ids=drawn[:stop],
            finish_reason="length" if stop is None else "stop",
            num_generated_tokens=num_generated,
            label_logprobs=lambda num_tokens: (-1.0 - num_tokens / 100, -2.0),
            logprobs=(-1.5,) * num_generated if params.logprobs else None,
        )

    labels = (7, 3)
    return EngineCase(
        engine=ScriptedEngine(
            script,
            context_length=256,
            label_ids=labels,
            unknown_label_logprobs=(-1.0, -2.0),
        ),
        decode=lambda token_ids: "".join(map(chr, token_ids)),
        compiles_grammars=False,
        prompt=tuple(range(40, 60)),
        eos_id=2,
        label_ids=labels,
        question=(9, 8, 7, 6, 5),
    )


class SharedVllm:
    """vLLM in this process, which takes seconds to load, so that tests share it."""

    def __init__(self) -> None:
        self._made: EngineCase | None = None

    async def get(self) -> EngineCase:
        """Return the engine of the tests before, or another one if a test has closed it."""
        if self._made is not None:
            try:
                await self._made.engine.label_logprobs(self._made.prompt, self._made.label_ids)
            except EngineClosedError:
                self._made = None
        if self._made is None:
            from selfeval_backend.engine.vllm import load_vllm_engine

            arguments = {"max_model_len": 256}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of vLLM's own dependencies
                engine = load_vllm_engine(str(REFERENCE_FOLDER), engine_args=arguments)
            self._made = reference_case(engine)
        return self._made

    def close(self) -> None:
        """Close what is open."""
        if self._made is not None:
            asyncio.run(self._made.engine.aclose())


def reference_case(engine: Engine) -> EngineCase:
    """Return what may be asked of an engine with the reference model."""
    from selfeval_backend.chat import ChatTemplate
    from selfeval_backend.selfeval import SelfEvaluator

    chat = ChatTemplate.load(REFERENCE_FOLDER)
    evaluator = SelfEvaluator(None, chat)
    return EngineCase(
        engine=engine,
        prompt=tuple(range(40, 60)),  # no problem, so that it is not sure of how to go on
        eos_id=min(chat.end_token_ids),
        label_ids=evaluator.label_ids,
        question=evaluator.question_ids,
        decode=chat.decode,
    )


@pytest.fixture(scope="session")
def shared_vllm() -> Iterator[SharedVllm]:
    """Share vLLM in this process."""
    pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
    shared = SharedVllm()
    yield shared
    shared.close()


async def _made(case: EngineCase) -> Engine:
    return case.engine


def replicas_case() -> EngineCase:
    """Return two scripted engines as replicas."""
    cases = {name: scripted_case() for name in ("first", "second")}
    connects = {name: partial(_made, case) for name, case in cases.items()}
    return replace(cases["first"], engine=run_sync(connect_replicas(connects)))


IN_PROCESS: dict[str, Callable[[], EngineCase]] = {
    "scripted": scripted_case,
    "replicas": replicas_case,
    "transformers": transformers_case,
}
ALL = [
    *IN_PROCESS,
    pytest.param("vllm", marks=pytest.mark.slow),
    pytest.param("vllm-server", marks=pytest.mark.slow),
    pytest.param("vllm-server-dropped", marks=pytest.mark.slow),
    pytest.param("vllm-server-resubmitting", marks=pytest.mark.slow),
]
SERVER_LACKS = {
    "vllm-server": {},
    "vllm-server-dropped": {"aborts_by_name": False},
    "vllm-server-resubmitting": {"streams_token_ids": False},
}
"""What the real server is taken not to be able to do."""


@pytest.fixture(params=ALL)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[EngineCase]:
    """Yield each engine in turn, and close it; vLLM in this process is left for the next test."""
    if request.param == "vllm":
        shared: SharedVllm = request.getfixturevalue("shared_vllm")
        yield await shared.get()
        return
    if request.param in SERVER_LACKS:
        from selfeval_backend.engine.server import ServerEngine, connect_server_engine

        server: VllmServer = request.getfixturevalue("vllm_server")
        connected = await connect_server_engine(server.base_url)
        facts = replace(connected.facts, **SERVER_LACKS[request.param])
        made = reference_case(ServerEngine(connected.client, facts))
    else:
        made = IN_PROCESS[request.param]()
    yield made
    await made.engine.aclose()
    with warnings.catch_warnings():
        # Connections of an event loop that was closed before its engine are left to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
