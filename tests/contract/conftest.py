"""The engines that the contract suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from selfeval_backend.engine.base import Engine


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


CASES: dict[str, Callable[[], EngineCase]] = {"transformers": transformers_case}


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[EngineCase]:
    """Yield each engine in turn, and close it."""
    made = CASES[request.param]()
    yield made
    await made.engine.aclose()
