"""The repetition penalty: tokens that a row has seen become less likely.

Source: Keskar et al. 2019, arXiv 1909.05858, section 4.1, as vLLM and transformers have it: over
prompt and sample together, and by the sign of the logit.

Axes: B rows, K rows with a penalty, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["RepetitionPenalty"]


class RepetitionPenalty:
    """Penalties of some rows of a batch, and the tokens that these have seen.

    Args:
        rows: Their places in the batch, [K].
        penalties: Of each, above 0.
        histories: Tokens of each: of the prompt, and drawn so far.
        device: Where the logits are.
    """

    def __init__(
        self,
        rows: Sequence[int],
        penalties: Sequence[float],
        histories: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._rows = torch.tensor(rows, device=device)
        self._penalties = torch.tensor(penalties, dtype=torch.float32, device=device)[:, None]
        self._histories = histories
        self._seen: torch.Tensor | None = None  # [K, V], bool; once V is known

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, V] with those of seen tokens penalized."""
        if self._seen is None:
            self._seen = self._seen_before(logits.shape[1])
        own = logits[self._rows]
        penalized = torch.where(own > 0, own / self._penalties, own * self._penalties)
        return logits.index_copy(0, self._rows, torch.where(self._seen, penalized, own))

    def see(self, token_ids: torch.Tensor) -> None:
        """Take the tokens [B] that were drawn from what `apply` returned."""
        assert self._seen is not None, "tokens are drawn from logits"
        self._seen.scatter_(1, token_ids[self._rows][:, None], value=True)

    def _seen_before(self, num_tokens: int) -> torch.Tensor:
        seen = torch.zeros(
            (len(self._histories), num_tokens), dtype=torch.bool, device=self._rows.device
        )
        for row, history in zip(seen, self._histories, strict=True):
            # A prompt may hold tokens of other kinds, which have no logit.
            row[[token_id for token_id in set(history) if token_id < num_tokens]] = True
        return seen
