"""What goes to a server: how samples are to be drawn, whatever the server would take it to be."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import replace

import pytest

from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.engine.server import ServerEngine, connect_server_engine
from selfeval_backend.errors import ConfigurationError
from tests.plain_server import PlainServer, serving_plainly

PARAMS = SamplingParams(temperature=0.7, max_tokens=3, seed=5, stop_token_ids=frozenset({2}))
SHAPED = replace(PARAMS, top_p=0.9, top_k=20, min_p=0.05, repetition_penalty=1.1)


async def connected(server: PlainServer) -> ServerEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it cannot do
        return await connect_server_engine(server.base_url)


async def drawn(server: PlainServer, params: SamplingParams) -> list[Chunk]:
    engine = await connected(server)
    try:
        return [chunk async for chunk in engine.stream((1, 2), params)]
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (PARAMS, {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}),
        (SHAPED, {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}),
    ],
    ids=["as by default", "as asked for"],
)
def test_a_server_is_told_all_that_it_would_fill_in(
    params: SamplingParams, sent: dict[str, float]
) -> None:
    with serving_plainly() as server:
        asyncio.run(drawn(server, params))
    body = server.bodies[-1]
    wanted = {**sent, "temperature": 0.7, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert {name: body[name] for name in wanted} == wanted
    (asked,) = [body for body in server.bodies if "logprob_token_ids" in body]
    assert set(wanted) <= set(asked)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_p_is_refused_before_any_token_where_the_server_refuses_it(temperature: float) -> None:
    with serving_plainly(speculative=True) as server:
        refused = replace(PARAMS, temperature=temperature, min_p=0.1)
        with pytest.raises(ConfigurationError, match="speculative") as caught:
            asyncio.run(drawn(server, refused))
        assert caught.value.field == "min_p"
        assert sum(len(chunk.token_ids) for chunk in asyncio.run(drawn(server, PARAMS))) == 3
