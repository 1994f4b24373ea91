"""One sample in several requests: to a server that stops at checkpoints, or to another replica."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from selfeval_backend.engine.base import Chunk, SamplingParams

__all__ = ["SampleSoFar"]


class SampleSoFar:
    """What a sample has become, and how a further request goes on with it.

    The remainder has a seed of its own, derived from the sample's and from where it begins:
    repeating the first one would repeat its random numbers.

    Args:
        prompt_ids: Of the sample.
        params: Of the whole sample.
    """

    def __init__(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> None:
        self._sequence = prompt_ids
        self._params = params
        self.num_generated = 0
        self._num_resent: int | None = None  # None: this is the first request

    @property
    def num_left(self) -> int:
        """Tokens that may still be generated."""
        return self._params.max_tokens - self.num_generated

    def take(self, chunk: Chunk) -> Chunk:
        """Add a chunk of the request that runs; return it as one of the whole sample."""
        self._sequence += chunk.token_ids
        self.num_generated += chunk.num_generated_tokens
        if self._num_resent is None:
            return chunk
        resent, self._num_resent = self._num_resent, 0
        return replace(
            chunk,
            resent_tokens=resent,
            cached_prompt_tokens=0,
            cached_resent_tokens=chunk.cached_prompt_tokens,
        )

    def go_on(self) -> tuple[tuple[int, ...], SamplingParams]:
        """Return prompt and parameters of the request that goes on from here."""
        done, params = self.num_generated, self._params
        if done == 0:
            return self._sequence, params
        self._num_resent = len(self._sequence)
        digest = hashlib.blake2b(f"{params.seed}+{done}".encode(), digest_size=8).digest()
        return self._sequence, replace(
            params,
            max_tokens=params.max_tokens - done,
            seed=int.from_bytes(digest, "big") >> 1,
            checkpoints=tuple(at - done for at in params.checkpoints if at > done),
        )
