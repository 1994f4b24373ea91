"""Connect to a server: see what it serves and what it can do, before any call depends on it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import httpx

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.server.client import Client
from selfeval_backend.engine.server.engine import ABORT_PATH, ServerEngine, ServerFacts
from selfeval_backend.engine.server.wire import Delta, generation_body, is_usage
from selfeval_backend.errors import ConfigurationError, EngineRequestError, EngineResponseError
from selfeval_backend.generators import Owned

__all__ = [
    "aborts_by_name",
    "connect_server_engine",
    "served_models",
    "streams_token_ids",
    "takes_grammars",
    "takes_min_p",
    "takes_priorities",
]

_UNLIKELY = "Q"


async def connect_server_engine(
    base_url: str,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 60.0,
    max_retries: int = 2,
    verify: bool | str = True,
) -> ServerEngine:
    """Return an engine on a running vLLM server.

    Asks for a few tokens, to see what it can do: whether it schedules by priority, streams token
    ids, aborts by name, follows grammars, takes min_p, and reads labels. That is also the server's
    warm-up.

    Args:
        base_url: Up to and with the version: ``http://host:8000/v1``.
        model: The name it is served under; None: the only one that is served.
        api_key: Sent as a bearer token.
        timeout_s: Longest silence of the server.
        max_retries: Times that a request is sent again that failed before any token came.
        verify: False: certificates are not checked; a path: a bundle of authorities.

    Raises:
        ConfigurationError: The URL cannot be one, no header can carry the key, or the server serves
            another model.
        SelfEvaluationError: The server cannot give label log-probabilities.
        EngineError: The server cannot be reached, or is none of vLLM's.
    """
    client = Client(
        base_url, api_key=api_key, timeout_s=timeout_s, max_retries=max_retries, verify=verify
    )
    try:
        facts = await _facts(client, model)
        engine = ServerEngine(client, facts)
        await engine.label_logprobs((0,), (0, 1))
    except BaseException:
        await client.aclose()
        raise
    return engine


async def _facts(client: Client, model: str | None) -> ServerFacts:
    served = await served_models(client)
    if model is None and len(served) == 1:
        (model,) = served
    if model is None or model not in served:
        raise ConfigurationError(
            "model", model, f"one that {client.base_url} serves: {', '.join(sorted(served))}"
        )
    prioritised = await takes_priorities(client, model)
    if not prioritised:
        warnings.warn(
            f"{client.base_url} does not schedule by priority, so self-evaluations wait behind "
            "generation. Start it with --scheduling-policy priority.",
            stacklevel=2,
        )
    streamed = await streams_token_ids(client, model)
    if not streamed:
        warnings.warn(
            f"{client.base_url} does not stream token ids, so samples are stopped at checkpoints "
            "and sent again, which computes more. Use vLLM 0.32 or newer.",
            stacklevel=2,
        )
    return ServerFacts(
        model=model,
        max_model_len=served[model],
        schedules_by_priority=prioritised,
        streams_token_ids=streamed,
        aborts_by_name=await aborts_by_name(client),
        takes_grammars=await takes_grammars(client, model),
        takes_min_p=await takes_min_p(client, model),
    )


async def served_models(client: Client) -> dict[str, int]:
    """Return the names that a server serves, each with its context length in tokens.

    Raises:
        EngineError: The server cannot be reached, or is none of vLLM's.
    """
    answer = await client.get("/models")
    try:
        entries = {entry["id"]: entry for entry in answer["data"]}
        return {name: _context_length(entry, entries) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineResponseError(
            f"{client.base_url}/models does not answer as vLLM does: {str(answer)[:200]}"
        ) from error


def _context_length(entry: Mapping[str, Any], entries: Mapping[str, Any]) -> int:
    """Return a served model's; vLLM gives a LoRA adapter none of its own, but a parent."""
    own = entry.get("max_model_len")
    return int(entries[entry["parent"]]["max_model_len"] if own is None else own)


async def streams_token_ids(client: Client, model: str) -> bool:
    """Return whether a sample's tokens can be seen while it runs; asks for two tokens.

    Raises:
        EngineError: The server failed.
    """
    params = SamplingParams(temperature=0.0, max_tokens=2, seed=0, stop_token_ids=frozenset())
    body = generation_body(model, (0,), params, streamed=True)
    try:
        async with Owned(client.stream("/completions", body)) as events:
            async for event in events:
                if not is_usage(event):
                    Delta.read(event, with_logprobs=False)
    except EngineResponseError:
        return False
    return True


async def aborts_by_name(client: Client) -> bool:
    """Return whether a request can be aborted by its name: one started with --enable-scale-out.

    Raises:
        EngineError: The server failed.
    """
    try:
        await client.command(ABORT_PATH, {"request_ids": []})
    except EngineRequestError:
        return False
    return True


async def takes_grammars(client: Client, model: str) -> bool:
    """Return whether samples can be drawn under a grammar; asks for one token.

    A server that does not know them passes over them, and draws whatever it likes.

    Raises:
        EngineError: The server failed.
    """
    body = {
        "model": model,
        "prompt": [0],
        "max_tokens": 1,
        "temperature": 0.0,
        "structured_outputs": {"regex": _UNLIKELY * 8},
    }
    try:
        answer = await client.post("/completions", body)
    except EngineRequestError as error:
        if error.status_code == httpx.codes.BAD_REQUEST:
            return False
        raise
    try:
        text = answer["choices"][0]["text"]
    except (KeyError, IndexError, TypeError):
        return False
    return isinstance(text, str) and set(text) == {_UNLIKELY}


async def takes_min_p(client: Client, model: str) -> bool:
    """Return whether samples can be drawn with min_p; asks for one token.

    vLLM refuses it with speculative decoding, where a sample is not greedy.

    Raises:
        EngineError: The server failed.
    """
    params = SamplingParams(
        temperature=1.0, min_p=0.5, max_tokens=1, seed=0, stop_token_ids=frozenset()
    )
    try:
        await client.post("/completions", generation_body(model, (0,), params, streamed=False))
    except EngineRequestError as error:
        if error.status_code == httpx.codes.BAD_REQUEST and "min_p" in str(error):
            return False
        raise
    return True


async def takes_priorities(client: Client, model: str) -> bool:
    """Return whether requests may name a priority; asks for one token.

    vLLM 0.32 lets them do so always, against its documentation, and heeds it only if started with
    --scheduling-policy priority. No answer of a server says which policy it has.

    Raises:
        EngineError: The server failed.
    """
    body = {"model": model, "prompt": [0], "max_tokens": 1, "priority": 1}
    try:
        await client.post("/completions", body)
    except EngineRequestError as error:
        if error.status_code == httpx.codes.BAD_REQUEST and "priority" in str(error).lower():
            return False
        raise
    return True
