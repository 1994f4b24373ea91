"""From tokens as they come to chunks that end at checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfeval_backend.engine.base import Chunk, SamplingParams
from selfeval_backend.types import FinishReason

__all__ = ["Chunker", "join_chunks"]


def join_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Return consecutive chunks as one, without a finish_reason: what was generated in all."""
    given = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
    return Chunk(
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        num_generated_tokens=sum(chunk.num_generated_tokens for chunk in chunks),
        cached_prompt_tokens=sum(chunk.cached_prompt_tokens for chunk in chunks),
        resent_tokens=sum(chunk.resent_tokens for chunk in chunks),
        cached_resent_tokens=sum(chunk.cached_resent_tokens for chunk in chunks),
        logprobs=tuple(logprob for some in given for logprob in some) if given else None,
    )


class Chunker:
    """Cuts one sample, whose engine does not pause, into chunks.

    A chunk ends at every checkpoint, at the sample's end, and after `chunk_tokens` tokens.

    Args:
        params: Of the sample.
        chunk_tokens: Most tokens of a chunk, if `params` do not say.
    """

    def __init__(self, params: SamplingParams, *, chunk_tokens: int) -> None:
        self._stop_token_ids = params.stop_token_ids
        self._with_logprobs = params.logprobs
        self._chunk_tokens = params.chunk_tokens or chunk_tokens
        self._later_checkpoints = iter(params.checkpoints)
        self._checkpoint = next(self._later_checkpoints, None)
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._num_generated = 0
        self._num_delivered = 0
        self._cached_prompt_tokens = 0

    def take(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float] = (),
        *,
        finish_reason: FinishReason | None = None,
        cached_prompt_tokens: int = 0,
    ) -> Iterator[Chunk]:
        """Take what was newly generated, and yield the chunks that end in it.

        Args:
            token_ids: In order; a stop token that ended the sample is the last one.
            logprobs: One for each, if they are asked for.
            finish_reason: Set if the sample ends here.
            cached_prompt_tokens: As far as newly known; goes out with the next chunk.
        """
        self._cached_prompt_tokens += cached_prompt_tokens
        last = len(token_ids) - 1
        for place, token_id in enumerate(token_ids):
            self._num_generated += 1
            if self._with_logprobs:
                self._logprobs.append(logprobs[place])
            ends = place == last and finish_reason == "stop" and token_id in self._stop_token_ids
            if not ends:
                self._token_ids.append(token_id)
            if place < last or finish_reason is None:
                at_checkpoint = self._num_generated == self._checkpoint
                if at_checkpoint:
                    self._checkpoint = next(self._later_checkpoints, None)
                if at_checkpoint or self._num_generated - self._num_delivered >= self._chunk_tokens:
                    yield self._chunk(None)
        if finish_reason is not None:
            yield self._chunk(finish_reason)

    def flush(self) -> Chunk:
        """Return what was taken and not yet yielded: the last word of a sample that is stopped."""
        return self._chunk(None)

    def _chunk(self, finish_reason: FinishReason | None) -> Chunk:
        chunk = Chunk(
            token_ids=tuple(self._token_ids),
            num_generated_tokens=self._num_generated - self._num_delivered,
            finish_reason=finish_reason,
            cached_prompt_tokens=self._cached_prompt_tokens,
            logprobs=tuple(self._logprobs) if self._with_logprobs else None,
        )
        self._num_delivered = self._num_generated
        self._cached_prompt_tokens = 0
        self._token_ids.clear()
        self._logprobs.clear()
        return chunk
