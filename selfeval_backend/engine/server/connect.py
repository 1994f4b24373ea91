"""Connect to a server: see what it serves and what it can do, before any call depends on it."""

from __future__ import annotations

import warnings
from contextlib import aclosing

import httpx

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.server.client import Client
from selfeval_backend.engine.server.engine import ABORT_PATH, ServerEngine, ServerFacts
from selfeval_backend.engine.server.wire import Delta, generation_body, is_usage
from selfeval_backend.errors import ConfigurationError, EngineRequestError, EngineResponseError

__all__ = ["connect_server_engine"]


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
    ids, aborts by name, and reads labels. That is also the server's warm-up.

    Args:
        base_url: Up to and with the version: ``http://host:8000/v1``.
        model: The name it is served under; None: the only one that is served.
        api_key: Sent as a bearer token.
        timeout_s: Longest silence of the server.
        max_retries: Times that a request is sent again that failed before any token came.
        verify: False: certificates are not checked; a path: a bundle of authorities.

    Raises:
        ConfigurationError: The URL cannot be one, or the server serves another model.
        SelfEvaluationError: The server cannot give label log-probabilities.
        EngineError: The server cannot be reached, or is none of vLLM's.
    """
    _check_url(base_url)
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


def _check_url(base_url: str) -> None:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("base_url", base_url, 'a URL such as "http://localhost:8000/v1"')


async def _facts(client: Client, model: str | None) -> ServerFacts:
    answer = await client.get("/models")
    try:
        served = {entry["id"]: entry for entry in answer["data"]}
        if model is None and len(served) == 1:
            (model,) = served
        if model is None or model not in served:
            raise ConfigurationError(
                "model", model, f"one that {client.base_url} serves: {', '.join(sorted(served))}"
            )
        max_model_len = int(served[model]["max_model_len"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise EngineResponseError(
            f"{client.base_url}/models does not answer as vLLM does: {str(answer)[:200]}"
        ) from error
    return ServerFacts(
        model=model,
        max_model_len=max_model_len,
        schedules_by_priority=await _schedules_by_priority(client, model),
        streams_token_ids=await _streams_token_ids(client, model),
        aborts_by_name=await _aborts_by_name(client),
    )


async def _streams_token_ids(client: Client, model: str) -> bool:
    params = SamplingParams(temperature=0.0, max_tokens=2, seed=0, stop_token_ids=frozenset())
    body = generation_body(model, (0,), params, streamed=True)
    try:
        async with aclosing(client.stream("/completions", body)) as events:
            async for event in events:
                if not is_usage(event):
                    Delta.read(event, with_logprobs=False)
    except EngineResponseError:
        warnings.warn(
            f"{client.base_url} does not stream token ids, so samples are stopped at checkpoints "
            "and sent again to go on, which computes more. Use vLLM 0.32 or newer.",
            stacklevel=2,
        )
        return False
    return True


async def _aborts_by_name(client: Client) -> bool:
    try:
        await client.command(ABORT_PATH, {"request_ids": []})
    except EngineRequestError:
        return False
    return True


async def _schedules_by_priority(client: Client, model: str) -> bool:
    body = {"model": model, "prompt": [0], "max_tokens": 1, "priority": 1}
    try:
        await client.post("/completions", body)
    except EngineRequestError as error:
        if error.status_code == httpx.codes.BAD_REQUEST and "priority" in str(error).lower():
            warnings.warn(
                f"{client.base_url} does not schedule by priority, so self-evaluations wait behind "
                "generation. Start it with --scheduling-policy priority.",
                stacklevel=2,
            )
            return False
        raise
    return True
