"""The slot cache keeps what it is given, and no more memory than that takes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")
pytest.importorskip("transformers", reason="the extra with transformers is not installed")

from selfeval_backend.engine.transformers.kv_cache import (  # noqa: E402
    Placement,
    SlotCache,
    WriteBack,
)


def write(
    cache: SlotCache, slots: slice | torch.Tensor, positions: list[list[int]], **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the numbers 1, 2, ... (keys) and their negatives (values); return what is used."""
    where = torch.tensor(positions)
    length = int(where.max()) + 1
    cache.placement = Placement(
        slots=slots,
        positions=where,
        length=length,
        **options,  # type: ignore[arg-type]  # by name
    )
    new = torch.arange(1.0, where.numel() + 1).reshape(*where.shape, 1, 1).transpose(1, 2)
    return cache.update(new.expand(-1, 2, -1, 3), -new.expand(-1, 2, -1, 3), 0)


def first(states: torch.Tensor) -> list[list[float]]:
    rows: list[list[float]] = states[:, 0, :, 0].tolist()
    return rows


def test_rows_are_written_at_their_own_positions() -> None:
    cache = SlotCache(1)
    cache.fit(3, 5)
    keys, values = write(cache, slice(1, 3), [[0, 1], [2, 3]])
    assert first(keys) == [[1, 2, 0, 0], [0, 0, 3, 4]]
    assert torch.equal(values, -keys)
    keys, _ = write(cache, slice(0, 3), [[1], [1], [1]], start=1)
    assert first(keys) == [[0, 1], [1, 2], [0, 3]]


def test_copied_rows_leave_their_slots_alone() -> None:
    cache = SlotCache(1)
    cache.fit(2, 4)
    write(cache, slice(0, 2), [[0, 1], [0, 1]])
    keys, _ = write(cache, torch.tensor([1, 1, 0]), [[1], [2], [70]], num_cached=2)
    assert [row[:3] for row in first(keys)] == [[3, 1, 0], [3, 4, 2], [1, 2, 0]]
    assert first(keys)[2][70] == 3
    assert (cache.num_slots, cache.capacity) == (2, 64)
    keys, _ = write(cache, slice(0, 2), [[2], [2]], start=2)
    assert first(keys) == [[1, 2, 1], [3, 4, 2]]


def test_copied_rows_may_be_written_back() -> None:
    cache = SlotCache(1)
    cache.fit(3, 4)
    back = WriteBack(
        rows=torch.tensor([0, 1]),
        queries=torch.tensor([1, 1]),
        slots=torch.tensor([2, 0]),
        positions=torch.tensor([0, 0]),
    )
    write(cache, torch.tensor([2, 0]), [[5, 0], [5, 0]], write_back=back)
    keys, _ = write(cache, slice(0, 3), [[1], [1], [1]], start=1)
    assert first(keys) == [[4, 1], [0, 2], [2, 3]]


def test_copies_read_before_they_write() -> None:
    cache = SlotCache(1)
    cache.fit(3, 4)
    write(cache, slice(0, 2), [[0, 1], [0, 1]])
    cache.copy([0, 1], [1, 0], 1)
    keys, _ = write(cache, slice(0, 2), [[2], [2]], start=2)
    assert [row[:2] for row in first(keys)] == [[3, 2], [1, 4]]


def test_memory_follows_what_is_held() -> None:
    cache = SlotCache(1)
    cache.fit(2, 4)
    assert (cache.num_slots, cache.capacity) == (2, 64)
    write(cache, slice(0, 2), [[0, 1], [0, 1]])
    cache.fit(2, 65)
    assert (cache.num_slots, cache.capacity) == (2, 128)
    cache.fit(40, 600)
    assert (cache.num_slots, cache.capacity) == (40, 640)
    cache.trim(30, 400)  # less than three quarters idle
    assert (cache.num_slots, cache.capacity) == (40, 640)
    cache.trim(2, 2)
    assert (cache.num_slots, cache.capacity) == (2, 64)
    keys, _ = write(cache, slice(0, 2), [[2], [2]], start=2)
    assert first(keys) == [[1, 2, 1], [3, 4, 2]]
    cache.trim(0, 0)
    assert (cache.num_slots, cache.capacity, cache.layers[0].keys) == (0, 0, None)


def test_what_is_not_finite_is_cleared() -> None:
    cache = SlotCache(1)
    cache.fit(2, 4)
    write(cache, slice(0, 2), [[0, 1], [0, 1]])
    cache.clear(1, 1)
    keys, _ = write(cache, slice(0, 2), [[2], [2]], start=2)
    assert [row[:2] for row in first(keys)] == [[1, 2], [3, 0]]
