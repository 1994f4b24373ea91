"""A KV cache of slots: one row of keys and values a sequence, each with its own length.

Axes: B rows of one forward pass, H key-value heads, Q new tokens, L positions attended to, D head
dimension, S slots, C positions a slot has room for.

Two facts keep it correct. A position past a row's length may hold anything *finite*: no query ever
attends to it, and it is overwritten before it counts. And what is not finite must go: a masked NaN
still poisons a softmax-weighted sum, hence `SlotCache.clear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from typing_extensions import override  # torch depends on it; typing has it from 3.12 on

__all__ = ["Placement", "SlotCache", "WriteBack"]

_STEP = 64
"""Positions that the capacity grows by: a copy of the cache each 64 tokens costs less than 5 % of
what attention reads meanwhile, and at most 63 positions a slot are idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBack:
    """Where the real (not padding) new keys and values of a gathered pass go."""

    rows: torch.Tensor  # [N], into B
    queries: torch.Tensor  # [N], into Q
    slots: torch.Tensor  # [N], into S
    positions: torch.Tensor  # [N], into C


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one forward pass reads and writes."""

    slots: slice | torch.Tensor
    """A slice: the rows lie in consecutive slots, and are read and written in place, as views.
    A tensor [B]: their cached part is copied out, and the slots stay as they are."""
    positions: torch.Tensor  # [B, Q]
    """Where each new token goes in its row."""
    length: int
    """L: positions that are attended to, the new ones included."""
    start: int | None = None
    """The first new position, where it is the same for all rows and nothing is padding."""
    num_cached: int = 0
    """For copied rows: how many positions of the slots are wanted at most."""
    write_back: WriteBack | None = None
    """For copied rows: what to keep of the new keys and values."""


class SlotCache(Cache):
    """The cache of all rows, in the form that transformers' models take.

    Args:
        num_layers: Layers of the model; their shapes are learned at the first pass.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_slots = 0
        self.capacity = 0
        self.placement: Placement | None = None
        """Of the pass that runs; set by whoever calls the model."""
        self._slot_layers = [_SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._slot_layers))

    def fit(self, num_slots: int, length: int) -> None:
        """Make room for at least `num_slots` rows of `length` positions, keeping what is there."""
        if num_slots > self.num_slots or length > self.capacity:
            # Slots grow by half, so that admitting n rows one by one copies O(n) of them.
            grown = max(num_slots, self.num_slots * 3 // 2)
            slots = grown if num_slots > self.num_slots else self.num_slots
            self._resize(slots, max(_round_up(length), self.capacity))

    def trim(self, num_slots: int, length: int) -> None:
        """Give memory back once three quarters of it are idle; all of it when no row is left."""
        if num_slots == 0:
            for layer in self._slot_layers:
                layer.keys = layer.values = None
                layer.is_initialized = False
            self.num_slots = self.capacity = 0
            return
        slots = num_slots if num_slots * 4 <= self.num_slots else self.num_slots
        capacity = _round_up(length)
        capacity = capacity if capacity * 4 <= self.capacity else self.capacity
        if (slots, capacity) != (self.num_slots, self.capacity):
            self._resize(slots, capacity)

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of slots onto others.

        All sources are read before anything is written, so that this also swaps.
        """
        for store in self._stores():
            moved = store[_index(sources, store), :, :length]
            store[_index(targets, store), :, :length] = moved

    def clear(self, slot: int, start: int = 0) -> None:
        """Fill a slot with zeros from a position on: something not finite was written there."""
        for store in self._stores():
            store[slot, :, start:].zero_()

    def _stores(self) -> list[torch.Tensor]:
        stores = [store for layer in self._slot_layers for store in (layer.keys, layer.values)]
        return [store for store in stores if store is not None]

    def _resize(self, num_slots: int, capacity: int) -> None:
        # One layer at a time, so that the peak is one layer above the larger size. The sizes are
        # the least that all layers have, also when an allocation fails half way.
        kept_slots, kept = min(num_slots, self.num_slots), min(capacity, self.capacity)
        self.num_slots, self.capacity = kept_slots, kept
        for layer in self._slot_layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = _resized(layer.keys, num_slots, capacity, kept_slots, kept)
                layer.values = _resized(layer.values, num_slots, capacity, kept_slots, kept)
        self.num_slots, self.capacity = num_slots, capacity


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # untyped __init_subclass__
    """One layer's keys and values, each [S, H, C, D]."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._cache = cache

    @property
    def _placement(self) -> Placement:
        assert self._cache.placement is not None, "a pass without a placement"
        return self._cache.placement

    @override
    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, in the shape of the first keys and values that come."""
        size = self._cache.num_slots, self._cache.capacity
        self.keys = _zeros(key_states, *size)
        self.values = _zeros(value_states, *size)
        self.is_initialized = True

    @override
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values at each row's own positions.

        Args:
            key_states: [B, H, Q, D].
            value_states: [B, H, Q, D].
            args: Ignored.
            kwargs: Ignored.

        Returns:
            Keys and values, each [B, H, L, D].
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place = self._placement
        return _extend(self.keys, key_states, place), _extend(self.values, value_states, place)

    @override
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions `update` gives back, and the first of them."""
        return self._placement.length, 0

    @override
    def get_seq_length(self) -> int:
        """Return the first new position; only read where it is the same for all rows."""
        return self._placement.start or 0

    @override
    def get_max_length(self) -> int:
        """Return -1: the cache grows."""
        return -1


def _extend(store: torch.Tensor, new: torch.Tensor, place: Placement) -> torch.Tensor:
    """Write `new` [B, H, Q, D] where `place` says, and return what it attends to [B, H, L, D]."""
    if isinstance(place.slots, slice):
        used = store[place.slots, :, : place.length]
    else:
        batch, heads, _, dim = new.shape
        used = new.new_zeros(batch, heads, place.length, dim)
        if cached := place.num_cached:
            used[:, :, :cached] = store[:, :, :cached].index_select(0, place.slots)
    if place.start is not None:
        used[:, :, place.start : place.start + new.shape[2]] = new
    else:
        rows = torch.arange(new.shape[0], device=new.device)[:, None]
        used[rows, :, place.positions] = new.transpose(1, 2)  # both [B, Q, H, D]
    if (kept := place.write_back) is not None:
        store[kept.slots, :, kept.positions] = new[kept.rows, :, kept.queries]  # [N, H, D]
    return used


def _resized(
    store: torch.Tensor, num_slots: int, capacity: int, kept_slots: int, kept: int
) -> torch.Tensor:
    larger = _zeros(store, num_slots, capacity)
    larger[:kept_slots, :, :kept] = store[:kept_slots, :, :kept]
    return larger


def _zeros(like: torch.Tensor, num_slots: int, capacity: int) -> torch.Tensor:
    return like.new_zeros(num_slots, like.shape[1], capacity, like.shape[3])


def _index(slots: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(slots, device=like.device)


def _round_up(length: int) -> int:
    return -(-length // _STEP) * _STEP
