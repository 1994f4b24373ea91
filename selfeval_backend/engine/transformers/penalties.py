"""The repetition penalty: tokens that a row has seen become less likely.

Source: Keskar et al. 2019, arXiv 1909.05858, section 4.1, as vLLM and transformers have it: over
prompt and sample together, and by the sign of the logit.

Axes: B rows, V vocabulary, N tokens that rows with a penalty have seen; some stand there twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["RepetitionPenalty"]


class RepetitionPenalty:
    """Penalties of some rows of a batch, and the tokens that these have seen.

    Args:
        rows: Their places in the batch.
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
        self._penalties = torch.tensor(penalties, dtype=torch.float32, device=device)
        seen = [
            (place, token_id)
            for place, history in enumerate(histories)
            for token_id in dict.fromkeys(history)
        ]
        found = torch.tensor(seen, dtype=torch.long, device=device).view(-1, 2)
        self._places, self._token_ids = found.unbind(1)  # [N]: which of the rows, and the token
        self._is_new = True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, V] with those of seen tokens penalized."""
        if self._is_new:
            # A prompt may hold tokens of other kinds, which have no logit.
            known = self._token_ids < logits.shape[1]
            self._places, self._token_ids = self._places[known], self._token_ids[known]
            self._is_new = False
        where = (self._rows[self._places], self._token_ids)
        found, penalties = logits[where], self._penalties[self._places]
        penalized = torch.where(found > 0, found / penalties, found * penalties)
        return logits.index_put(where, penalized)

    def see(self, token_ids: torch.Tensor) -> None:
        """Take the tokens [B] that were drawn from what `apply` returned."""
        places = torch.arange(len(self._rows), device=self._rows.device)
        self._places = torch.cat([self._places, places])
        self._token_ids = torch.cat([self._token_ids, token_ids[self._rows]])
