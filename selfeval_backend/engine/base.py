"""The engine protocol: narrow, asynchronous, token ids only.

One sample is one stream. An engine knows nothing of prompts, chat templates, self-evaluation or
policies, so that one contract suite runs over all of them (``tests/contract``). Reusing the KV
cache is the engine's business, and it reports what it reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from selfeval_backend.grammar import Grammar
from selfeval_backend.types import FinishReason, Usage

__all__ = [
    "Capabilities",
    "Chunk",
    "Engine",
    "Grammar",
    "LabelLogprobs",
    "SampleStream",
    "SamplingParams",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; constant over its life."""

    name: str
    """Its name in settings and traces: "scripted", "replay", "transformers", ..."""
    context_length: int
    """Most tokens of a sequence: prompt, response and question together."""
    evaluates_mid_generation: bool
    """Whether `label_logprobs` may be asked of a prefix of a stream that is still open."""
    pauses_at_checkpoints: bool
    """Whether a stream stands still at a checkpoint until its consumer asks for the next chunk, so
    that a decision made there costs no overshoot."""
    resubmits: bool = False
    """Whether a sample goes on past a checkpoint as a new request over its prefix, which is read
    again: stop and resubmit."""
    takes_grammars: bool = False
    """Whether samples may be drawn under a `Grammar`."""
    takes_min_p: bool = True
    """Whether `SamplingParams.min_p` may be above 0: vLLM refuses it with speculative decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one sample is drawn."""

    temperature: float
    """0 is greedy."""
    max_tokens: int
    """At least 1, the end token included."""
    seed: int
    """In [0, 2**63): same seed, same prompt, same engine: same tokens."""
    stop_token_ids: frozenset[int]
    """A sample ends on any of them."""
    top_p: float = 1.0
    """In (0, 1]: sample from the smallest set of tokens with at least this probability."""
    top_k: int = 0
    """At least 0: sample from this many of the likeliest tokens; 0: from all."""
    min_p: float = 0.0
    """In [0, 1]: sample from the tokens with at least this share of the likeliest one's
    probability."""
    repetition_penalty: float = 1.0
    """Above 0: the logit of each token that prompt or sample has is divided by it, or multiplied
    where it is negative; of a greedy sample too. 1: none.

    Tokens are drawn as vLLM draws them: `repetition_penalty` changes logits, `temperature` divides
    them, `min_p`, `top_k` and `top_p` leave tokens out, in this order; `top_p` is of the
    probability that the others leave."""
    checkpoints: tuple[int, ...] = ()
    """Ascending numbers of generated tokens at which a chunk ends, so that the consumer sees
    exactly that prefix."""
    logprobs: bool = False
    """Report the log-probability of each token, as the model gives it: under temperature 1, with no
    token left out and no repetition_penalty."""
    chunk_tokens: int | None = None
    """Most tokens of a chunk, at least 1: fewer let a consumer see them sooner, at more overhead;
    None: the engine's choice."""
    grammar: Grammar | None = None
    """What the text must be, for engines with `Capabilities.takes_grammars`. It needs a stop token.
    Log-probabilities stay those of the model without it, and self-evaluations know nothing of
    it."""

    @property
    def shaping(self) -> dict[str, float]:
        """What shapes the next token's distribution beside the temperature, by vLLM's names."""
        return {
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The next piece of a sample."""

    token_ids: tuple[int, ...]
    """Newly generated, in order; the stop token that ended the sample is not among them."""
    num_generated_tokens: int
    """Newly generated, the stop token counted."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk only."""
    cached_prompt_tokens: int = 0
    """On one chunk, the first or the last: prompt tokens that were in the KV cache already."""
    resent_tokens: int = 0
    """Tokens of prompt and sample that were sent again to go on with it: to a server that stops
    at checkpoints, or to another replica."""
    cached_resent_tokens: int = 0
    """Of those, tokens that were in the KV cache."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probabilities, one a generated token (the stop token too), if asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLogprobs:
    """Next-token log-probabilities of a few labels, and what reading them cost."""

    logprobs: tuple[float, ...]
    """Natural, raw (temperature 1, over the whole vocabulary), in the order of the labels."""
    computed_tokens: int
    """Tokens of the sequence that went through the model."""
    cached_tokens: int
    """Tokens of the sequence that were read from the KV cache."""

    @property
    def usage(self) -> Usage:
        """What the one self-evaluation that is read from them costs."""
        return Usage(
            self_evaluations=1,
            self_evaluation_tokens=self.computed_tokens,
            cached_self_evaluation_tokens=self.cached_tokens,
        )


class SampleStream(Protocol):
    """One sample that is being generated: iterate over its chunks, and close it in any case."""

    def __aiter__(self) -> Self:
        """Return itself."""
        ...

    async def __anext__(self) -> Chunk:
        """Return the next chunk.

        A task that is cancelled while it waits ends the sample: generation stops at once.

        Raises:
            StopAsyncIteration: The last chunk was returned, or the stream was closed.
            EngineError: Generation failed. What was returned before is valid.
        """
        ...

    async def aclose(self) -> Chunk:
        """Stop generation at once, free everything, and return the last word.

        Returns:
            What was generated beyond the chunks that were returned: it was paid for. Without a
            finish_reason; of no tokens if there was nothing, and if the stream was closed before.
        """
        ...


class Engine(Protocol):
    """What generates tokens and reads label log-probabilities.

    Engines may be used by many runs at once, and from several event loops. They raise the
    `EngineError` family only.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        ...

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> SampleStream:
        """Generate one sample; it begins when the first chunk is asked for.

        An open stream keeps its KV cache, also after the last chunk: the consumer evaluates, then
        closes.

        Raises (the first time that a chunk is asked for):
            ConfigurationError: The prompt or a parameter is out of range, or the grammar is one
                that the engine cannot follow.
            ContextLengthError: Prompt and max_tokens exceed the context.
        """
        ...

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return the log-probabilities of `label_ids` as the token after `token_ids`.

        Where an open stream shares a prefix with `token_ids` its KV cache is reused, and is left
        as it was. Calls made together are computed together.

        Raises:
            EngineError: The evaluation failed.
        """
        ...

    async def aclose(self) -> None:
        """Stop everything and free the model. Open streams end with EngineClosedError."""
        ...
