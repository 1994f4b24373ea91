"""Grouped attention gives what transformers' own gives, without copies of keys and values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from selfeval_backend.engine.transformers.attention import attend_in_groups

HEADS, GROUPS = 9, 3


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("is_masked", [True, False])
def test_it_is_the_attention_of_transformers(queries: int, *, is_masked: bool) -> None:
    torch.manual_seed(0)
    length = 20 if is_masked or queries == 1 else queries
    query = torch.randn(4, HEADS, queries, 16)
    key, value = torch.randn(2, 4, GROUPS, length, 16)
    mask = None
    if is_masked:
        seen = torch.rand(4, 1, queries, length) < 0.7
        seen[..., 0] = True
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    module = cast(
        "torch.nn.Module",
        SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=True, training=False),
    )

    found, weights = attend_in_groups(module, query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)

    assert weights is None
    assert found.shape == (4, queries, HEADS, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
