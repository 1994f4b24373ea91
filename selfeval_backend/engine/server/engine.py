"""One vLLM server as an engine: token ids in, token ids out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfeval_backend.engine.base import Capabilities, Chunk, LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import (
    check_length,
    check_params,
    check_token_ids,
    refused_grammar,
)
from selfeval_backend.engine.chunking import Chunker
from selfeval_backend.engine.generator_stream import GeneratorStream
from selfeval_backend.engine.mailbox import Mailbox, Outbox
from selfeval_backend.engine.resubmission import SampleSoFar
from selfeval_backend.engine.server.client import Client
from selfeval_backend.engine.server.wire import (
    Delta,
    evaluation_body,
    generation_body,
    is_usage,
    num_cached_tokens,
    read_labels,
    tokens_between_events,
)
from selfeval_backend.errors import (
    AICError,
    EngineClosedError,
    EngineError,
    EngineRequestError,
    EngineResponseError,
)
from selfeval_backend.generators import Owned

__all__ = ["ABORT_PATH", "ServerEngine", "ServerFacts"]

ABORT_PATH = "/inference/v1/abort_requests"
"""Beside /v1: aborts requests by name, where a server was started with --enable-scale-out."""
_COMPLETIONS = "/completions"
_BAD_REQUEST = 400
_LAST_WORD_WITHIN_S = 1.0
"""How long an aborted request may take to end, before its connection is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself."""

    model: str
    """Under which name it serves."""
    max_model_len: int
    schedules_by_priority: bool
    """Whether evaluations can go ahead of generation."""
    streams_token_ids: bool
    """Whether samples can be seen while they run; else they are stopped and resubmitted."""
    aborts_by_name: bool
    """Whether a sample that is aborted has a last word, which makes its count of tokens exact."""
    takes_grammars: bool = False
    """Whether it draws samples under a grammar, and does not pass over it."""
    takes_min_p: bool = True
    """Whether it takes min_p, which vLLM refuses with speculative decoding."""


class ServerEngine:
    """Samples from a running vLLM server.

    A sample is one streamed request, which runs on while it is evaluated: an evaluation is a
    request of its own, which reads the sample's full KV blocks from the prefix cache. A sample that
    is left is aborted by name, and what it had generated until then is counted. A server that does
    not abort by name aborts when the connection is dropped; then all that has arrived is counted,
    and the few tokens that were on their way are not.

    Of a server that does not stream token ids a sample is requested up to its next checkpoint, and
    what has come is sent again to go on (`Capabilities.resubmits`).

    Args:
        client: To the server; closed with the engine.
        facts: What the server said of itself.
        chunk_tokens: Most tokens of a chunk, where the call does not say.
    """

    def __init__(self, client: Client, facts: ServerFacts, *, chunk_tokens: int = 16) -> None:
        self._client = client
        self._facts = facts
        self._chunk_tokens = chunk_tokens
        self._closed = False
        self._capabilities = Capabilities(
            name="vllm-server",
            # vLLM wants room for one token after every prompt: the label's.
            context_length=facts.max_model_len - 1,
            evaluates_mid_generation=True,
            pauses_at_checkpoints=not facts.streams_token_ids,
            resubmits=not facts.streams_token_ids,
            # A grammar would begin anew with every request.
            takes_grammars=facts.takes_grammars and facts.streams_token_ids,
            takes_min_p=facts.takes_min_p,
        )
        self._aborts: Outbox[str] = Outbox(self._abort)
        self._aborting: set[asyncio.Task[None]] = set()

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    @property
    def client(self) -> Client:
        """The client that it was made with."""
        return self._client

    @property
    def facts(self) -> ServerFacts:
        """What the server said of itself."""
        return self._facts

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> GeneratorStream:
        """Generate one sample; none of its chunks crosses a checkpoint.

        Args:
            prompt_ids: At least one token.
            params: How it is drawn.

        Raises (the first time that a chunk is asked for):
            ConfigurationError: The prompt or a parameter is out of range, or the server refuses the
                grammar.
            ContextLengthError: Prompt and max_tokens exceed the context.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineError: The server failed.
        """
        generate = self._streamed if self._facts.streams_token_ids else self._resubmitted
        return GeneratorStream(lambda rest: generate(prompt_ids, params, rest))

    async def _streamed(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, rest: list[Chunk]
    ) -> AsyncGenerator[Chunk, None]:
        """Yield chunks as they come. A task reads them, so that what has arrived is known."""
        self._check(prompt_ids, params)
        mailbox: Mailbox[Chunk] = Mailbox()
        chunker = Chunker(params, chunk_tokens=self._chunk_tokens)
        name = uuid.uuid4().hex
        reader = asyncio.create_task(self._read(prompt_ids, params, name, chunker, mailbox))
        try:
            while True:
                chunk = await mailbox.get()
                if self._closed:  # what had arrived before is paid for, and no step goes on
                    rest.append(replace(chunk, finish_reason=None))
                    raise EngineClosedError("The engine was closed.")
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            if not reader.done() and self._facts.aborts_by_name and not self._closed:
                self._aborts.put(f"cmpl-{name}-0")
                await asyncio.wait({reader}, timeout=_LAST_WORD_WITHIN_S)
            reader.cancel()
            await asyncio.wait({reader})
            rest.extend(replace(chunk, finish_reason=None) for chunk in mailbox.take_all())

    async def _read(
        self,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        name: str,
        chunker: Chunker,
        mailbox: Mailbox[Chunk],
    ) -> None:
        """Put into the mailbox what comes, whole chunks first; at the end what is left, and why.

        The last event is held back until the usage has come behind it.
        """
        body = {
            **self._generation_body(prompt_ids, params, streamed=True),
            "request_id": name,
        }
        if self._facts.aborts_by_name:  # else what has not been sent when it is dropped is not seen
            most = params.chunk_tokens or self._chunk_tokens
            body["stream_interval"] = tokens_between_events(params, most=most)
        last: Delta | None = None
        cached = 0
        try:
            async with Owned(self._client.stream(_COMPLETIONS, body)) as events:
                async for event in events:
                    if is_usage(event):
                        cached = num_cached_tokens(event)
                        continue
                    delta = Delta.read(event, with_logprobs=params.logprobs)
                    if delta.finish_reason is not None or delta.aborted:
                        last = delta
                        continue
                    for chunk in chunker.take(delta.token_ids, delta.logprobs):
                        mailbox.put(chunk)
            if last is None:
                raise EngineResponseError("the server ended a stream without a finish_reason")
            for chunk in chunker.take(
                last.token_ids,
                last.logprobs,
                finish_reason=last.finish_reason,
                cached_prompt_tokens=cached,
            ):
                mailbox.put(chunk)
            if last.aborted:
                mailbox.put(chunker.flush())
        except asyncio.CancelledError:
            mailbox.put(chunker.flush())
            raise
        except EngineError as error:
            mailbox.put(chunker.flush())
            mailbox.put(_grammar_refusal(error, params) or self._closed_or(error))

    async def _resubmitted(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, rest: list[Chunk]
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the sample in pieces that end at its checkpoints, one request for each."""
        self._check(prompt_ids, params)
        so_far = SampleSoFar(prompt_ids, params)
        while True:
            self._check_open()
            chunk = await self._piece(*so_far.go_on())
            yield so_far.take(chunk)
            if chunk.finish_reason is not None:
                return

    async def _piece(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> Chunk:
        """Return what comes up to the next checkpoint, or to the end."""
        asked = min((*params.checkpoints[:1], params.max_tokens))
        wanted = replace(params, max_tokens=asked)
        try:
            answer = await self._client.post(
                _COMPLETIONS, self._generation_body(prompt_ids, wanted, streamed=False)
            )
        except EngineError as error:
            raise self._closed_or(error) from error
        delta = Delta.read(answer, with_logprobs=params.logprobs)
        if delta.finish_reason == "length" and len(delta.token_ids) != asked:
            raise EngineResponseError(
                f"the server cut a sample at {len(delta.token_ids)} tokens, where {asked} were "
                "asked for and its context has room"
            )
        at_checkpoint = delta.finish_reason == "length" and asked < params.max_tokens
        (chunk,) = Chunker(wanted, chunk_tokens=asked + 1).take(
            delta.token_ids,
            delta.logprobs,
            finish_reason=delta.finish_reason or "stop",
            cached_prompt_tokens=num_cached_tokens(answer),
        )
        return replace(chunk, finish_reason=None) if at_checkpoint else chunk

    def _generation_body(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, *, streamed: bool
    ) -> dict[str, Any]:
        body = generation_body(self._facts.model, prompt_ids, params, streamed=streamed)
        return {**body, "priority": 1} if self._facts.schedules_by_priority else body

    def _abort(self, names: list[str]) -> None:
        """Ask the server to abort requests; whoever waits for their ends sees whether it did."""
        task = asyncio.create_task(self._post_abort({"request_ids": names}))
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    async def _post_abort(self, body: Mapping[str, Any]) -> None:
        try:
            await self._client.command(ABORT_PATH, body)
        except EngineError:
            return  # then their connections are dropped

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return the log-probabilities of `label_ids` as the token after `token_ids`.

        Args:
            token_ids: At least one token.
            label_ids: At least one token.

        Returns:
            One raw natural log-probability for each label. `cached_tokens` is 0 where the server
            does not say (start it with --enable-prompt-tokens-details).

        Raises:
            ConfigurationError: There are no tokens.
            ContextLengthError: The sequence exceeds the context.
            SelfEvaluationError: The server left a label out.
            EngineClosedError: The engine was closed.
            EngineError: The server failed.
        """
        self._check_open()
        self._check_tokens("token_ids", token_ids, 0)
        check_token_ids("label_ids", label_ids)
        body = evaluation_body(self._facts.model, token_ids, label_ids)
        try:
            answer = await self._client.post(_COMPLETIONS, body)
        except EngineError as error:
            raise self._closed_or(error) from error
        return read_labels(answer, label_ids, num_tokens=len(token_ids))

    async def aclose(self) -> None:
        """Drop all connections. Open streams end with EngineClosedError."""
        self._closed = True
        await self._client.aclose()

    def _check(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> None:
        self._check_open()
        check_params(params, self._capabilities)
        self._check_tokens("prompt_ids", prompt_ids, params.max_tokens)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine was closed.")

    def _closed_or(self, error: EngineError) -> EngineError:
        """Return the error of a closed engine if that is what dropped the connection."""
        if not self._closed or isinstance(error, EngineClosedError):
            return error
        closed = EngineClosedError("The engine was closed.")
        closed.__cause__ = error
        return closed

    def _check_tokens(
        self, field: str, token_ids: tuple[int, ...], num_reserved_tokens: int
    ) -> None:
        check_token_ids(field, token_ids)
        check_length(
            len(token_ids), num_reserved_tokens, context_length=self._capabilities.context_length
        )


def _grammar_refusal(error: EngineError, params: SamplingParams) -> AICError | None:
    """Return what it means that a server refuses a request, if a grammar is what it can refuse."""
    refused = isinstance(error, EngineRequestError) and error.status_code == _BAD_REQUEST
    if params.grammar is None or not refused:
        return None
    refusal = refused_grammar(params.grammar, str(error))
    refusal.__cause__ = error
    return refusal
