"""The engines that the contract suite runs over."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from selfeval_backend.engine.base import Engine
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse, StreamCall


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
    return EngineCase(
        engine=TransformersEngine(LlamaForCausalLM(config)),
        prompt=tuple(range(40, 60)),
        eos_id=2,
        label_ids=(7, 3),
        question=(9, 8, 7, 6, 5),
    )


def scripted_case() -> EngineCase:
    """Return a script that draws its tokens from the sample's seed."""

    def script(call: StreamCall) -> ScriptedResponse:
        params = call.params
        rng = random.Random(params.seed if params.temperature else "greedy")
        drawn = tuple(rng.randrange(10, 300) for _ in range(params.max_tokens))
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
        prompt=tuple(range(40, 60)),
        eos_id=2,
        label_ids=labels,
        question=(9, 8, 7, 6, 5),
    )


CASES: dict[str, Callable[[], EngineCase]] = {
    "scripted": scripted_case,
    "transformers": transformers_case,
}


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[EngineCase]:
    """Yield each engine in turn, and close it."""
    made = CASES[request.param]()
    yield made
    await made.engine.aclose()
