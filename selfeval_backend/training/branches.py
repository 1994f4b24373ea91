"""Self-evaluations of prefixes of responses, as tensors.

With *branches* a row is prompt and response, once. The question is appended once for every cut, as
a branch that sees the prefix up to its cut and itself only, with positions that continue that
prefix: exactly what inference sees, for little more than the price of one evaluation::

    positions   0 1 2 3 4 5 6 7 8 9     4 5 6     8 9 10
    tokens      p p p r r r r r r r     q q q     q q q
                        ^ cut at 4      branch    branch of the cut at 8
                                ^ cut at 8

Models that do not take such a mask get one plain sequence for each cut instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selfeval_backend.engine.transformers.architecture import plain_attention_length

__all__ = [
    "BranchBatch",
    "LabelledCut",
    "Row",
    "collate",
    "collate_plain",
    "move",
    "run",
    "takes_branches",
]

IGNORED = -100
"""A label that no loss is taken on."""

_TOLERANCE = {torch.float32: 0.02, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Of a logit, times the spread of all, by the precision of the weights. Measured on the reference
model: 0.000002, 0.026 and 0.003; 0.9 where the mask is not heeded, in each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCut:
    """A prefix of a response, and what the self-evaluation should say of it."""

    num_tokens: int
    """Response tokens kept, 0 of an empty response; the end token is never among them."""
    prob_win_or_tie: float
    """Target in [0, 1]: 0 or 1 is a hard label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One response, what is learned of its tokens, and its cuts."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """With the end token."""
    untrained: tuple[int, ...] = ()
    """Places in the response, from 0, that the losses on tokens leave out."""
    cuts: tuple[LabelledCut, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchBatch:
    """Rows as tensors. B rows, S tokens of prompt and response, K cuts, W the width of it all."""

    input_ids: torch.Tensor
    """[B, W]"""
    position_ids: torch.Tensor
    """[B, W]"""
    attention_mask: torch.Tensor | None
    """[B, 1, W, W] of bool: whether a token sees another. None: plain causal attention."""
    next_ids: torch.Tensor
    """[B, S]: the token that each position should predict, IGNORED where none."""
    targets: torch.Tensor
    """[B, K]: prob_win_or_tie, NaN where a row has fewer cuts."""
    label_positions: torch.Tensor
    """[B, K]: where in a row the labels are read; 0 where a row has fewer cuts."""

    @property
    def num_main(self) -> int:
        """S: tokens of prompt and response, padding included."""
        return self.next_ids.shape[1]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the fields by name, those that are there."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> BranchBatch:
        """Make a batch of what `tensors` returned."""
        rest: dict[str, Any] = {"attention_mask": None, **tensors}
        return cls(**rest)


def collate(rows: Sequence[Row], question_ids: Sequence[int], *, pad_id: int) -> BranchBatch:
    """Make one batch of rows with branches; shorter ones are padded right of the response."""
    size, q = len(rows), len(question_ids)
    num_main = max(row.num_tokens for row in rows)
    num_branches = max(len(row.cuts) for row in rows)
    width = num_main + num_branches * q
    ids = torch.full((size, width), pad_id)
    positions = torch.zeros((size, width), dtype=torch.long)
    positions[:, :num_main] = torch.arange(num_main)
    next_ids = torch.full((size, num_main), IGNORED)
    targets = torch.full((size, num_branches), float("nan"))
    cut_at = torch.zeros((size, num_branches), dtype=torch.long)
    ids[:, num_main:] = torch.tensor(list(question_ids) * num_branches)
    for b, row in enumerate(rows):
        tokens = torch.tensor(row.prompt_ids + row.response_ids)
        ids[b, : len(tokens)] = tokens
        _set_next(next_ids[b], row, len(row.response_ids))
        for k, cut in enumerate(row.cuts):
            cut_at[b, k] = len(row.prompt_ids) + cut.num_tokens
            targets[b, k] = cut.prob_win_or_tie
    offsets = torch.arange(q).repeat(num_branches)
    positions[:, num_main:] = cut_at.repeat_interleave(q, dim=1) + offsets
    label_positions = num_main + q * torch.arange(1, num_branches + 1) - 1
    return BranchBatch(
        input_ids=ids,
        position_ids=positions,
        attention_mask=_mask(cut_at, num_main, q) if num_branches else None,
        next_ids=next_ids,
        targets=targets,
        label_positions=label_positions.expand(size, -1).contiguous(),
    )


def _set_next(next_ids: torch.Tensor, row: Row, num_response: int) -> None:
    """Fill in what the positions before a response's first tokens should predict."""
    first = len(row.prompt_ids)
    next_ids[first - 1 : first + num_response - 1] = torch.tensor(row.response_ids[:num_response])
    next_ids[[first - 1 + place for place in row.untrained if place < num_response]] = IGNORED


def _mask(cut_at: torch.Tensor, num_main: int, q: int) -> torch.Tensor:
    """Block mask; cut_at: [B, K]. Padding is on the right, so the causal part hides it."""
    size, num_branches = cut_at.shape
    width = num_main + num_branches * q
    sees = torch.zeros((size, width, width), dtype=torch.bool)
    sees[:, :num_main, :num_main] = torch.ones(num_main, num_main, dtype=torch.bool).tril()
    prefix = torch.arange(num_main) < cut_at[:, :, None]  # [B, K, S]
    sees[:, num_main:, :num_main] = prefix.repeat_interleave(q, dim=1)
    own = torch.kron(torch.eye(num_branches), torch.ones(q, q).tril()).bool()
    sees[:, num_main:, num_main:] = own
    return sees[:, None]


def collate_plain(rows: Sequence[Row], question_ids: Sequence[int], *, pad_id: int) -> BranchBatch:
    """Make one batch with a sequence of its own for every cut: prefix and question.

    Losses on response tokens are taken once a row: on its longest cut.
    """
    sequences = [(row, cut) for row in rows for cut in row.cuts]
    q = len(question_ids)
    lengths = [len(row.prompt_ids) + cut.num_tokens for row, cut in sequences]
    width = max(lengths) + q
    ids = torch.full((len(sequences), width), pad_id)
    next_ids = torch.full((len(sequences), width), IGNORED)
    for b, (row, cut) in enumerate(sequences):
        prefix = row.prompt_ids + row.response_ids[: cut.num_tokens] + tuple(question_ids)
        ids[b, : len(prefix)] = torch.tensor(prefix)
        if cut is max(row.cuts, key=lambda c: c.num_tokens):
            _set_next(next_ids[b], row, cut.num_tokens)
    return BranchBatch(
        input_ids=ids,
        position_ids=torch.arange(width).expand(len(sequences), -1).contiguous(),
        attention_mask=None,
        next_ids=next_ids,
        targets=torch.tensor([[cut.prob_win_or_tie] for _, cut in sequences]),
        label_positions=torch.tensor([[length + q - 1] for length in lengths]),
    )


def run(model: Any, batch: BranchBatch, positions: torch.Tensor) -> torch.Tensor:
    """Run a causal language model, and return its logits [B, P, V] at some positions [P].

    Only their logits are computed: a large vocabulary times all positions would not fit.
    """
    mask = batch.attention_mask
    if mask is not None:
        dtype = next(model.parameters()).dtype
        seen = torch.zeros((), dtype=dtype, device=mask.device)
        mask = torch.where(mask, seen, torch.finfo(dtype).min)  # [B, 1, W, W]
    logits: torch.Tensor = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=positions,
    ).logits
    return logits


@torch.inference_mode()
def takes_branches(model: Any, *, max_tokens: int) -> bool:
    """Tell whether a model gives the same logits with branches as without: tried, not assumed.

    Args:
        model: A causal language model, on its device.
        max_tokens: Of the sequences that it is to see.
    """
    if plain_attention_length(model.config) < max_tokens:
        return False  # a branch would see further than a window, or under other factors
    size = min(model.config.get_text_config().vocab_size, 1000)
    ids = tuple((37 * n + 11) % size for n in range(24))
    cuts = tuple(LabelledCut(num_tokens=n, prob_win_or_tie=1.0) for n in (5, 12))
    row = Row(prompt_ids=ids[:8], response_ids=ids[8:], cuts=cuts)
    said = []
    training = model.training
    model.eval()
    try:
        for made in (collate, collate_plain):
            batch = move(made([row], ids[2:5], pad_id=0), model.device)
            logits = run(model, batch, batch.label_positions.flatten())
            rows = range(len(cuts)) if logits.shape[0] > 1 else [0] * len(cuts)
            said.append(torch.stack([logits[b, k] for k, b in enumerate(rows)]).float())
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False  # it takes no mask of four axes
    finally:
        model.train(training)
    tolerance = _TOLERANCE.get(next(model.parameters()).dtype, _TOLERANCE[torch.float32])
    return bool((said[0] - said[1]).abs().max() <= tolerance * said[1].std())


def move(batch: BranchBatch, device: torch.device) -> BranchBatch:
    """Return the batch on a device."""
    return BranchBatch.of({name: t.to(device) for name, t in batch.tensors().items()})
