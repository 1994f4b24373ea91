"""Attention that reads the keys and values of grouped queries in place.

transformers repeats them for every query head wherever there is a mask, which at a decoding step
is most of the work: with SmolLM2's nine heads on three, 64 rows of 400 positions and one core of a
CPU, 2.5 s a step against 0.2 s here, where the matrix products take 0.25 s.

Axes: B rows, H query heads, K key-value heads, G query heads of one of them, Q new tokens, L
positions attended to, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

__all__ = ["GROUPED_ATTENTION", "attend_in_groups"]

GROUPED_ATTENTION = "grouped_sdpa"
"""A name that `from_pretrained(attn_implementation=...)` takes once this module is imported."""


def attend_in_groups(
    module: torch.nn.Module,
    query: torch.Tensor,  # [B, H, Q, D]
    key: torch.Tensor,  # [B, K, L, D]
    value: torch.Tensor,  # [B, K, L, D]
    attention_mask: torch.Tensor | None,  # [B, 1, Q, L]
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return what each new token attends to, [B, Q, H, D], and no weights.

    The query heads of a group stand behind one another as if they were tokens. Where the model's
    own causal mask is meant, transformers' function is called as it is.
    """
    if attention_mask is None and query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    batch, heads, length, dim = query.shape
    num_groups = key.shape[1]
    grouped = query.reshape(batch, num_groups, -1, dim)  # [B, K, G * Q, D]
    if attention_mask is not None:
        attention_mask = attention_mask.repeat(1, 1, heads // num_groups, 1)
    attended = scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return attended.reshape(batch, heads, length, dim).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_ATTENTION, attend_in_groups)
AttentionMaskInterface.register(GROUPED_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
