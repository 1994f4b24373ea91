"""A vLLM server: whether it serves the model, and does what the method needs and saves by."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from selfeval_backend.doctor.check import Check, failed, failed_by, not_checked, ok, warning
from selfeval_backend.doctor.metrics import Metrics
from selfeval_backend.doctor.model_files import ModelFiles
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.server.client import Client
from selfeval_backend.engine.server.connect import (
    aborts_by_name,
    served_models,
    streams_token_ids,
    takes_grammars,
    takes_min_p,
    takes_priorities,
)
from selfeval_backend.engine.server.engine import ServerEngine, ServerFacts
from selfeval_backend.errors import AICError, EngineError, EngineRequestError
from selfeval_backend.web import check_url

__all__ = ["check_server"]

_ABORTS_WITHIN_S = 1.0
_LONG_PROMPT_TOKENS = 512
"""Several KV blocks, whatever their size (16 tokens on a GPU, 128 on a CPU)."""
_LOOK = "Look at the server's log; use vLLM 0.32 or newer."
_STATUS_REMEDIES: Mapping[int, str] = {
    401: "Set AIC_API_KEY to the server's key.",
    403: "Set AIC_API_KEY to a key that may use this server.",
}
_CACHED_ON = "--enable-prompt-tokens-details"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """The server under examination."""

    client: Client
    root: Client
    """One path above the version: where /metrics and /version are."""
    engine: ServerEngine
    model: str
    context_length: int
    files: ModelFiles

    @property
    def label_ids(self) -> tuple[int, int]:
        """The model's labels; any two tokens where they are not known."""
        return self.files.evaluator.label_ids if self.files.evaluator else (0, 1)

    async def metrics(self) -> Metrics | None:
        """Return None where the server shows none."""
        try:
            return Metrics(await self.root.get_text("/metrics"))
        except EngineError:
            return None

    async def load(self) -> _Load | None:
        """Return what the server is doing; None where it does not say."""
        metrics = await self.metrics()
        if metrics is None:
            return None
        num_requests, num_tokens = metrics.num_requests, metrics.num_generated_tokens
        if num_requests is None or num_tokens is None:
            return None
        return _Load(num_requests=num_requests, num_generated_tokens=num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What a server is doing."""

    num_requests: int
    """Running and waiting."""
    num_generated_tokens: int
    """Since its start."""


async def check_server(
    base_url: str, *, model: str, api_key: str | None, files: ModelFiles, timeout_s: float = 20.0
) -> tuple[Check, ...]:
    """Return what a running vLLM server does and does not do.

    Sends it about ten small requests. A server that carries other traffic is not disturbed, but
    some things cannot be told of it.

    Args:
        base_url: Up to and with the version: ``http://host:8000/v1``.
        model: The name it should serve.
        api_key: Sent as a bearer token; None: none.
        files: What was found of the model.
        timeout_s: Longest silence of the server.

    Raises:
        ConfigurationError: The URL cannot be one, or no header can carry the key.
    """
    base_url = check_url(base_url)
    root_url = base_url.removesuffix("/v1")
    client, root = (
        Client(url, api_key=api_key, timeout_s=timeout_s, max_retries=0)
        for url in (base_url, root_url)
    )
    async with aclosing(client), aclosing(root):
        reachable, served = await _reachable(client, root)
        if model not in served:
            return (reachable, *_unserved(reachable, model, served))
        facts = ServerFacts(
            model=model,
            max_model_len=served[model],
            schedules_by_priority=False,
            streams_token_ids=True,
            aborts_by_name=False,  # what happens when a connection drops is to be seen
        )
        subject = _Subject(
            client=client,
            root=root,
            engine=ServerEngine(client, facts, chunk_tokens=1),
            model=model,
            context_length=served[model],
            files=files,
        )
        of_model = ok("model", f"serves {model}")
        return (reachable, of_model, _context_length(subject), *await _probe_all(subject))


def _unserved(reachable: Check, model: str, served: dict[str, int]) -> tuple[Check, ...]:
    """Return what can be said of a server that does not answer, or serves another model."""
    if reachable.status == "ok":
        of_model, why = _other_model(model, served), "the model is not served"
    else:
        why = "the server did not answer"
        of_model = not_checked("model", why)
    names = ("context length", *(name for probe in _PROBES for name in probe.names))
    return (of_model, *(not_checked(name, why) for name in names))


async def _probe_all(subject: _Subject) -> tuple[Check, ...]:
    checks: list[Check] = []
    for probe in _PROBES:
        if any(check.name == probe.needs and check.status != "ok" for check in checks):
            checks += [not_checked(name, f"needs {probe.needs}") for name in probe.names]
        else:
            checks += await _probed(probe, subject)
    return tuple(checks)


async def _probed(probe: _Probe, subject: _Subject) -> tuple[Check, ...]:
    try:
        return await probe.look(subject)
    except AICError as error:
        first, *others = probe.names
        rest = (not_checked(name, f"needs {first}") for name in others)
        return (failed_by(first, error, remedy=_LOOK), *rest)


async def _reachable(client: Client, root: Client) -> tuple[Check, dict[str, int]]:
    began = time.monotonic()
    try:
        served = await served_models(client)
    except EngineRequestError as error:
        remedy = _STATUS_REMEDIES.get(error.status_code or 0, "Look at the server's log.")
        return failed_by("reachable", error, remedy=remedy), {}
    except EngineError as error:
        return failed_by("reachable", error, remedy="Is it a vLLM server?"), {}
    took_ms = 1000 * (time.monotonic() - began)
    try:
        version = str((await root.get("/version")).get("version", "of unknown version"))
    except EngineError:
        version = "of unknown version"
    return ok("reachable", f"answered in {took_ms:.0f} ms; vLLM {version}"), served


def _other_model(model: str, served: dict[str, int]) -> Check:
    names = ", ".join(sorted(served)) or "nothing"
    return failed(
        "model",
        f"serves {names}, and not {model}",
        remedy=f"Give --model the name that is served (and --model-files the files), or start the "
        f"server with --served-model-name {model}.",
    )


def _context_length(subject: _Subject) -> Check:
    name, total = "context length", subject.context_length
    evaluator, settings = subject.files.evaluator, subject.files.settings
    if evaluator is None:
        found = f"{total:,} tokens; how many the question takes is not known"
        return not_checked(name, found, remedy="See the model's files.")
    num_question = len(evaluator.question_ids)
    left = total - 1 - num_question  # vLLM wants room for a token after every prompt
    shown = f"{total:,} tokens, {num_question} of them for the question"
    remedy = "Start the server with a larger --max-model-len."
    if left < 2:
        return failed(name, f"{shown}: no room for prompt and answer", remedy=remedy)
    last = max(settings.prune_at, default=0) if settings else 0
    if left <= last:
        return failed(name, f"{shown}: the checkpoint at {last} does not fit", remedy=remedy)
    return ok(name, f"{shown}, {left:,} for prompt and answer")


async def _label_logprobs(subject: _Subject) -> tuple[Check]:
    evaluator = subject.files.evaluator
    prompt = (0, *evaluator.question_ids) if evaluator else (0,)
    await subject.engine.label_logprobs(prompt, subject.label_ids)
    labels = "the model's labels" if evaluator else "two tokens"
    return (ok("label logprobs", f"of {labels}, by token id"),)


async def _token_ids(subject: _Subject) -> tuple[Check]:
    if not await streams_token_ids(subject.client, subject.model):
        found = "not streamed: samples are stopped at checkpoints and sent again"
        return (warning("token ids", found, remedy="Use vLLM 0.32 or newer."),)
    num_tokens = 0
    async with aclosing(subject.engine.stream((0,), _params(max_tokens=4))) as chunks:
        async for chunk in chunks:
            num_tokens += len(chunk.token_ids)
    name = "token ids"
    if num_tokens != 4:
        return (failed(name, f"streamed {num_tokens} of 4 tokens", remedy=_LOOK),)
    return (ok(name, "streamed with the text"),)


async def _priorities(subject: _Subject) -> tuple[Check]:
    name = "priorities"
    remedy = "Start the server with --scheduling-policy priority."
    if await takes_priorities(subject.client, subject.model):
        found = "cannot tell: vLLM accepts priorities even if it does not schedule by them"
        return (not_checked(name, found, remedy=remedy),)
    found = "refused: self-evaluations wait behind generation"
    return (warning(name, found, remedy=remedy),)


async def _grammars(subject: _Subject) -> tuple[Check]:
    name = "grammars"
    if await takes_grammars(subject.client, subject.model):
        return (ok(name, "samples can be drawn under a JSON schema"),)
    found = "none: forced tool calls and structured output are refused"
    remedy = "Use vLLM 0.32 or newer, without --skip-tokenizer-init."
    return (warning(name, found, remedy=remedy),)


async def _min_p(subject: _Subject) -> tuple[Check]:
    name, settings = "min_p", subject.files.settings
    if await takes_min_p(subject.client, subject.model):
        return (ok(name, "taken"),)
    found = "refused, as vLLM does with speculative decoding"
    if settings is None or settings.min_p == 0:
        return (ok(name, f"{found}; the model's own settings do not ask for it"),)
    asked = f"{settings.min_p:g} ({settings.sources['min_p']})"
    remedy = "Set min_p=0 where it is used, or start the server without --speculative-config."
    return (failed(name, f"{found}; the model's own settings have {asked}", remedy=remedy),)


async def _aborts_by_name(subject: _Subject) -> tuple[Check]:
    name = "exact counts"
    if await aborts_by_name(subject.client):
        return (ok(name, "an aborted sample reports its last tokens"),)
    found = "the last few tokens of an aborted sample are not counted"
    return (warning(name, found, remedy="Start the server with --enable-scale-out."),)


async def _prefix_cache(subject: _Subject) -> tuple[Check, Check]:
    """Send one long prompt twice: the second time most of it is read from the cache."""
    num_tokens = min(_LONG_PROMPT_TOKENS, subject.context_length - 1)
    prompt = tuple(secrets.randbelow(2) for _ in range(num_tokens))  # never seen before
    for _ in range(2):
        read = await subject.engine.label_logprobs(prompt, subject.label_ids)
    if read.cached_tokens:
        found = f"{read.cached_tokens} of {num_tokens} tokens of a repeated prompt"
        return ok("prefix cache", f"on: {found} were cached"), ok("cached tokens", "reported")
    metrics = await subject.metrics()
    return _unseen_cache(None if metrics is None else metrics.prefix_caching)


def _unseen_cache(configured: bool | None) -> tuple[Check, Check]:
    """Tell a cache that is off from one that is not spoken of."""
    cache, reported = "prefix cache", "cached tokens"
    if configured is False:
        return (
            failed(
                cache,
                "off: every self-evaluation computes its whole prefix again",
                remedy="Start the server with --enable-prefix-caching.",
            ),
            not_checked(reported, "nothing is cached"),
        )
    unreported = warning(
        reported,
        "not reported: all tokens are counted as computed",
        remedy=f"Start the server with {_CACHED_ON}.",
    )
    if configured:
        return ok(cache, "on, by the server's configuration"), unreported
    cannot = "cannot tell: neither cached tokens nor a configuration in /metrics are shown"
    return not_checked(cache, cannot, remedy=f"Start the server with {_CACHED_ON}."), unreported


async def _aborts(subject: _Subject) -> tuple[Check]:
    """Open a stream, see it run, drop it, and see the server forget it."""
    name = "aborts"
    before = await subject.load()
    if before is None:
        remedy = "Let this machine read the server's own /metrics."
        return (not_checked(name, "cannot tell: the server shows no /metrics", remedy=remedy),)
    if before.num_requests:
        return (_other_traffic(before.num_requests),)
    max_tokens = subject.context_length - 2
    async with aclosing(subject.engine.stream((0,), _params(max_tokens=max_tokens))) as chunks:
        await anext(chunks)
        seen, _ = await _wait_for(subject, lambda load: load.num_requests > 0)
    gone, took_s = await _wait_for(subject, lambda load: load.num_requests == 0)
    if seen is None or gone is None:
        return (not_checked(name, "cannot tell: /metrics no longer answers"),)
    num_requests = max(seen.num_requests, gone.num_requests)
    if num_requests > 1:
        return (_other_traffic(num_requests),)
    ran_out = gone.num_generated_tokens - before.num_generated_tokens >= max_tokens
    return (_aborted(seen, gone, ran_out=ran_out, took_s=took_s),)


def _aborted(seen: _Load, gone: _Load, *, ran_out: bool, took_s: float) -> Check:
    """Judge by the load while a stream was open, and the one after it was dropped."""
    name = "aborts"
    if gone.num_requests:
        return failed(
            name,
            f"a stream that was dropped still ran {took_s:.1f} s later: pruned samples are paid "
            "for in full",
            remedy="Is there a proxy that keeps connections open? Use vLLM 0.32 or newer.",
        )
    if not seen.num_requests or ran_out:
        return not_checked(name, "cannot tell: no stream was seen to run in /metrics")
    return ok(name, f"a stream that was dropped ended within {took_s:.2f} s")


async def _wait_for(
    subject: _Subject, holds: Callable[[_Load], bool]
) -> tuple[_Load | None, float]:
    """Return the first load for which it holds, or the last one in time; and the seconds taken."""
    began = time.monotonic()
    while True:
        load = await subject.load()
        took_s = time.monotonic() - began
        if load is None or holds(load) or took_s > _ABORTS_WITHIN_S:
            return load, took_s
        await asyncio.sleep(0.02)


def _other_traffic(num_requests: int) -> Check:
    return not_checked(
        "aborts",
        f"cannot tell: the server has other traffic ({num_requests} requests)",
        remedy="Ask again when it is idle.",
    )


def _params(*, max_tokens: int) -> SamplingParams:
    return SamplingParams(
        temperature=0.0, max_tokens=max_tokens, seed=0, stop_token_ids=frozenset()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """Something to look at."""

    names: tuple[str, ...]
    """Of the checks that come of it."""
    look: Callable[[_Subject], Awaitable[tuple[Check, ...]]]
    needs: str | None = None
    """A check without which nothing can be seen."""


_PROBES = (
    _Probe(names=("label logprobs",), look=_label_logprobs),
    _Probe(names=("token ids",), look=_token_ids),
    _Probe(names=("priorities",), look=_priorities),
    _Probe(
        names=("prefix cache", "cached tokens"),
        look=_prefix_cache,
        needs="label logprobs",
    ),
    _Probe(names=("aborts",), look=_aborts, needs="token ids"),
    _Probe(names=("exact counts",), look=_aborts_by_name),
    _Probe(names=("grammars",), look=_grammars),
    _Probe(names=("min_p",), look=_min_p),
)
