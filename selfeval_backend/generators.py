"""Nested asynchronous generators that close cleanly, whatever ends the outer one."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable
from typing import Generic, Self, TypeVar

__all__ = ["Owned"]

T = TypeVar("T")


class Owned(Generic[T]):
    """An asynchronous generator that another one reads, and alone closes.

    ::

        async with Owned(numbers()) as items:
            async for item in items:
                yield item

    An event loop that ends closes every generator it has heard of, all at once. The outer one then
    closes the inner one, which is being closed already, and Python complains of both. So the loop
    does not hear of an inner one.

    Args:
        items: Not begun.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._items.aclose()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T]:
        """Return the next item."""
        if self._begun:
            return self._items.__anext__()
        self._begun = True
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave_to_owner)
        try:
            return self._items.__anext__()
        finally:
            sys.set_asyncgen_hooks(*hooks)


def _leave_to_owner(items: AsyncGenerator[object, None]) -> None:
    """Do nothing when one is forgotten: its owner is forgotten too, and closes it."""
