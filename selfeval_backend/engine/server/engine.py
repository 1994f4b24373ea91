"""One vLLM server as an engine: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from selfeval_backend.engine.base import Capabilities, Chunk, LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import check_length, check_params, check_token_ids
from selfeval_backend.engine.chunking import Chunker
from selfeval_backend.engine.server.client import Client
from selfeval_backend.errors import (
    EngineClosedError,
    EngineError,
    EngineResponseError,
    SelfEvaluationError,
)
from selfeval_backend.types import FinishReason

__all__ = ["ServerEngine", "ServerFacts"]

_COMPLETIONS = "/completions"
_NEVER = -9000.0
"""Source: vLLM writes minus infinity as -9999.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself."""

    model: str
    """Under which name it serves."""
    max_model_len: int
    schedules_by_priority: bool
    """Whether evaluations can go ahead of generation."""


class ServerEngine:
    """Samples from a running vLLM server, one streamed request each.

    Samples run on while they are evaluated (an evaluation is a request of its own, which reads the
    sample's full KV blocks from the prefix cache); leaving a stream drops its connection, at which
    the server aborts the request.

    Args:
        client: To the server; closed with the engine.
        facts: What the server said of itself.
        chunk_tokens: Most tokens of a chunk; more is less overhead, less is a finer stream.
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
            pauses_at_checkpoints=False,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    async def stream(
        self, prompt_ids: tuple[int, ...], params: SamplingParams
    ) -> AsyncGenerator[Chunk, None]:
        """Generate one sample.

        Args:
            prompt_ids: At least one token.
            params: How it is drawn.

        Yields:
            Chunks of at most `chunk_tokens` tokens; none crosses a checkpoint. The last one has
            the cached prompt tokens, as the server says them only then.

        Raises:
            ConfigurationError: The prompt or a parameter is out of range.
            ContextLengthError: Prompt and max_tokens exceed the context.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineError: The server failed.
        """
        self._check_open()
        check_params(params)
        self._check_tokens("prompt_ids", prompt_ids, params.max_tokens)
        chunker = Chunker(params, chunk_tokens=self._chunk_tokens)
        try:
            async with aclosing(self._deltas(prompt_ids, params)) as deltas:
                async for delta in deltas:
                    self._check_open()
                    for chunk in delta.chunks(chunker):
                        yield chunk
        except EngineError as error:
            if self._closed:  # what dropped the connection
                raise EngineClosedError("The engine was closed.") from error
            raise

    async def _deltas(
        self, prompt_ids: tuple[int, ...], params: SamplingParams
    ) -> AsyncGenerator[_Delta, None]:
        """Yield what comes; the last one is held back until the usage has come behind it."""
        last: _Delta | None = None
        body = self._generation(prompt_ids, params)
        async with aclosing(self._client.stream(_COMPLETIONS, body)) as events:
            async for event in events:
                if last is not None:
                    yield replace(last, cached_prompt_tokens=_num_cached(event))
                    return
                delta = _Delta.read(event, with_logprobs=params.logprobs)
                if delta.finish_reason is None:
                    yield delta
                else:
                    last = delta
        if last is None:
            raise EngineResponseError("the server ended a stream without a finish_reason")
        yield last

    def _generation(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._facts.model,
            "prompt": list(prompt_ids),
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            "stop_token_ids": sorted(params.stop_token_ids),
            "ignore_eos": True,  # what ends a sample is said by stop_token_ids alone
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if params.logprobs:
            body |= {"logprobs": 0, "return_tokens_as_token_ids": True}
        if self._facts.schedules_by_priority:
            body["priority"] = 1
        return body

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
        answer = await self._client.post(
            _COMPLETIONS,
            {
                "model": self._facts.model,
                "prompt": list(token_ids),
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": 0,
                "logprob_token_ids": list(dict.fromkeys(label_ids)),
                "return_tokens_as_token_ids": True,
            },
        )
        cached = _num_cached(answer)
        return LabelLogprobs(
            logprobs=_read_labels(answer, label_ids),
            computed_tokens=len(token_ids) - cached,
            cached_tokens=cached,
        )

    async def aclose(self) -> None:
        """Drop all connections. Open streams end with EngineClosedError."""
        self._closed = True
        await self._client.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine was closed.")

    def _check_tokens(
        self, field: str, token_ids: tuple[int, ...], num_reserved_tokens: int
    ) -> None:
        check_token_ids(field, token_ids)
        check_length(
            len(token_ids), num_reserved_tokens, context_length=self._capabilities.context_length
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delta:
    """What one event of a stream adds to a sample."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None
    cached_prompt_tokens: int = 0

    @classmethod
    def read(cls, event: Mapping[str, Any], *, with_logprobs: bool) -> _Delta:
        try:
            (choice,) = event["choices"]
            token_ids = choice["token_ids"]
            logprobs = choice["logprobs"]["token_logprobs"] if with_logprobs else []
            reason = choice.get("finish_reason")
        except (KeyError, TypeError, ValueError) as error:
            raise EngineResponseError(
                "the server streams no token ids: adaptive sampling needs a vLLM that knows "
                f"return_token_ids. It sent {str(event)[:200]}"
            ) from error
        if reason not in (None, "stop", "length"):
            raise EngineResponseError(f"the server ended a sample with finish_reason {reason!r}")
        return cls(token_ids=token_ids or [], logprobs=logprobs, finish_reason=reason)

    def chunks(self, chunker: Chunker) -> Iterator[Chunk]:
        return chunker.take(
            self.token_ids,
            self.logprobs,
            finish_reason=self.finish_reason,
            cached_prompt_tokens=self.cached_prompt_tokens,
        )


def _num_cached(answer: Mapping[str, Any]) -> int:
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def _read_labels(answer: Mapping[str, Any], label_ids: tuple[int, ...]) -> tuple[float, ...]:
    try:
        said: Mapping[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        found = [said.get(f"token_id:{label_id}") for label_id in label_ids]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineResponseError(
            f"the server sent no log-probabilities: {str(answer)[:200]}"
        ) from error
    if None in found:
        missing = [i for i, value in zip(label_ids, found, strict=True) if value is None]
        raise SelfEvaluationError(
            f"the server gave no log-probability for the labels with token ids {missing}: it does "
            "not know logprob_token_ids. Use vLLM 0.32 or newer."
        )
    return tuple(float("-inf") if value < _NEVER else value for value in found if value is not None)
