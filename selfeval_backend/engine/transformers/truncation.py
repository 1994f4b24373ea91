"""What top_k, top_p and min_p leave of the next token's distribution.

Each of them is a floor: tokens with a lower probability are not drawn, and those that tie with the
last one that is drawn are too. So no token needs to be put in order but the likeliest ones.

Axes: K rows that have a floor, V vocabulary, W likeliest tokens, in descending order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from selfeval_backend.engine.base import SamplingParams

__all__ = ["Truncation"]

_NUM_LIKELIEST = 1024
"""Looked at first. Few floors are lower, and to sort all of 49,152 tokens takes eight times as long
(of 151,936: 15 times; one thread of a CPU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """The three limits of some rows, each [K, 1]."""

    top_k: torch.Tensor
    """Int64; 0: none."""
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> Truncation:
        """Return the limits of rows, in their order."""
        column = partial(torch.tensor, dtype=torch.float32, device=device)
        return cls(
            top_k=torch.tensor([p.top_k for p in params], device=device)[:, None],
            top_p=column([p.top_p for p in params])[:, None],
            min_p=column([p.min_p for p in params])[:, None],
        )

    @staticmethod
    def applies(params: SamplingParams) -> bool:
        """Return whether a row has any limit."""
        return params.top_k > 0 or params.top_p < 1 or params.min_p > 0

    def floors(self, probs: torch.Tensor) -> torch.Tensor:
        """Return the least probability that is drawn in each row, [K, 1].

        A row's floor does not depend on its companions.

        Args:
            probs: [K, V], after the temperature.
        """
        num_tokens = probs.shape[1]
        likeliest = probs.topk(min(_NUM_LIKELIEST, num_tokens)).values  # [K, W]
        floors = self._floors(probs, likeliest)
        if num_tokens > _NUM_LIKELIEST:
            # A floor as low as the last of them, or lower, may lie among the tokens behind them.
            unseen = (floors <= likeliest[:, -1:]) | (self.top_k > _NUM_LIKELIEST)
            rows = unseen[:, 0].nonzero()[:, 0]  # waits for the device
            if len(rows):
                ordered = probs[rows].sort(descending=True).values
                floors[rows] = self._rows(rows)._floors(probs[rows], ordered)
        return floors

    def _rows(self, rows: torch.Tensor) -> Truncation:
        return Truncation(top_k=self.top_k[rows], top_p=self.top_p[rows], min_p=self.min_p[rows])

    def _floors(self, probs: torch.Tensor, ordered: torch.Tensor) -> torch.Tensor:
        """Return the floors, so far as they lie within the ordered tokens [K, W]."""
        width = ordered.shape[1]
        kth = ordered.gather(1, self.top_k.clamp(1, width) - 1)
        has_kth = (self.top_k > 0) & (self.top_k <= width)
        floors = torch.maximum(self.min_p * ordered[:, :1], torch.where(has_kth, kth, 0.0))
        left = torch.where(probs >= floors, probs, 0.0).sum(dim=-1, keepdim=True)
        # A token is in the nucleus while those before it hold less than top_p of what is left.
        before = ordered.cumsum(dim=-1) - ordered
        inside = (before < self.top_p * left).sum(dim=-1, keepdim=True)
        last = ordered.gather(1, inside.clamp(min=1) - 1)
        return torch.maximum(floors, torch.where(self.top_p < 1, last, 0.0))
