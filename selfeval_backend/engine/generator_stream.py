"""A sample's stream, out of a generator of its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Self

from selfeval_backend.engine.base import Chunk
from selfeval_backend.engine.chunking import join_chunks

__all__ = ["GeneratorStream"]


class GeneratorStream:
    """A `SampleStream` made of an asynchronous generator.

    Args:
        generate: Returns the generator of the chunks. When it is closed, it appends what was
            generated beyond them to the list that it is given.
    """

    def __init__(self, generate: Callable[[list[Chunk]], AsyncGenerator[Chunk, None]]) -> None:
        self._rest: list[Chunk] = []
        self._chunks = generate(self._rest)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk; see `SampleStream`."""
        return await anext(self._chunks)

    async def aclose(self) -> Chunk:
        """Stop generation, and return the last word; see `SampleStream`."""
        await self._chunks.aclose()
        rest = join_chunks(self._rest)
        self._rest.clear()
        return rest
