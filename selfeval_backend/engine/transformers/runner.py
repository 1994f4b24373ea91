"""Forward passes of one model over the slot cache.

Axes: B rows, Q new tokens, L positions attended to, V vocabulary. Rows of different lengths are
padded on the left, so that every row's last token is in the last column; the padding is written to
positions past the row's end, where nothing attends to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from selfeval_backend.engine.transformers.kv_cache import Placement, SlotCache, WriteBack

__all__ = ["ModelRunner", "Segment"]

_ALIGNMENT = 16
"""L is a multiple of it under a mask: CUDA's memory-efficient kernel copies masks that are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens to compute behind a cached prefix."""

    token_ids: Sequence[int]
    start: int
    """Positions that are cached: the first token's position."""
    slot: int
    """Where they are cached; of no meaning if `start` is 0 and nothing is written."""
    appends: bool
    """Whether the slot holds nothing of value from `start` on."""


class ModelRunner:
    """A model and its cache; used by one thread.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.device = model.device
        config = model.config.get_text_config(decoder=True)
        self.cache = SlotCache(config.num_hidden_layers)
        accepted = inspect.signature(model.forward).parameters
        # Only the last column is used: without this, V logits a prompt token.
        self._options: dict[str, Any] = (
            {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        )
        # transformers 5.24 renamed it.
        self._options["cache" if "cache" in accepted else "past_key_values"] = self.cache

    def decode(
        self, token_ids: torch.Tensor, positions: torch.Tensor, *, length: int, aligned: bool
    ) -> torch.Tensor:
        """Compute one token of each row in slots 0 to B - 1.

        Args:
            token_ids: [B].
            positions: [B], of these tokens.
            length: One past the highest position.
            aligned: Whether all positions are the same.

        Returns:
            Logits [B, V].
        """
        place = Placement(
            slots=slice(0, token_ids.shape[0]),
            positions=positions[:, None],
            length=length if aligned else min(_round_up(length), self.cache.capacity),
            start=length - 1 if aligned else None,
        )
        return self._forward(token_ids[:, None], place.positions, place)

    def extend(self, segments: Sequence[Segment], *, write: bool) -> torch.Tensor:
        """Compute many tokens of some rows.

        Args:
            segments: One a row. They are computed in place, without a copy, where all append and
                their slots are consecutive.
            write: Whether to keep the new keys and values. Slots keep their value either way:
                without `write` only positions past a row's end may change.

        Returns:
            Logits [B, V] after the last token of each segment.
        """
        width = max(len(s.token_ids) for s in segments)
        pads = [width - len(s.token_ids) for s in segments]
        ids, rotary, positions = [], [], []
        for segment, pad in zip(segments, pads, strict=True):
            end = segment.start + len(segment.token_ids)
            own = list(range(segment.start, end))
            ids.append([0] * pad + list(segment.token_ids))
            rotary.append([0] * pad + own)  # learned positions have no entry past the context
            positions.append(list(range(end, end + pad)) + own)
        written = self._tensor(positions)
        place = self._place(segments, pads, written, write=write)
        return self._forward(self._tensor(ids), self._tensor(rotary), place)

    def _place(
        self, segments: Sequence[Segment], pads: list[int], positions: torch.Tensor, *, write: bool
    ) -> Placement:
        first, slots = segments[0].slot, [s.slot for s in segments]
        starts = {s.start for s in segments}
        aligned = len(starts) == 1 and not any(pads)
        length = max(starts) + positions.shape[1]
        length = length if aligned else _round_up(length)
        start = segments[0].start if aligned else None
        consecutive = slots == list(range(first, first + len(slots)))
        if consecutive and length <= self.cache.capacity and all(s.appends for s in segments):
            span = slice(first, first + len(slots))
            return Placement(slots=span, positions=positions, length=length, start=start)
        return Placement(
            slots=self._tensor(slots),
            positions=positions,
            length=length,
            start=start,
            num_cached=max(starts),
            write_back=self._write_back(slots, pads, positions) if write else None,
        )

    def _write_back(self, slots: list[int], pads: list[int], positions: torch.Tensor) -> WriteBack:
        columns = torch.arange(positions.shape[1], device=self.device)
        rows, queries = torch.nonzero(columns >= self._tensor(pads)[:, None], as_tuple=True)
        return WriteBack(
            rows=rows,
            queries=queries,
            slots=self._tensor(slots)[rows],
            positions=positions[rows, queries],
        )

    def _forward(
        self, token_ids: torch.Tensor, position_ids: torch.Tensor, place: Placement
    ) -> torch.Tensor:
        self.cache.placement = place
        output = self._model(
            input_ids=token_ids,  # [B, Q]
            position_ids=position_ids,  # [B, Q]
            attention_mask=self._mask(place),
            use_cache=True,
            return_dict=True,
            **self._options,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _mask(self, place: Placement) -> torch.Tensor | None:
        """Return what each new token attends to, as an additive mask [B, 1, Q, L].

        None where the model's own causal mask is right, which is faster: a single new token at the
        end of each row, or whole rows from the start.
        """
        if place.start == 0 or (place.start is not None and place.positions.shape[1] == 1):
            return None
        columns = torch.arange(place.length, device=self.device)
        seen = columns <= place.positions[:, None, :, None]
        dtype = self._model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill_(
            ~seen, torch.finfo(dtype).min
        )

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, device=self.device)


def _round_up(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
