"""Several self-evaluations of one response in one forward pass.

A row is prompt and response, once. The question is appended once for every cut, as a *branch* that
sees the prefix up to its cut and itself only, with positions that continue that prefix: exactly
what inference sees, for little more than the price of one evaluation::

    positions   0 1 2 3 4 5 6 7 8 9     4 5 6     8 9 10
    tokens      p p p r r r r r r r     q q q     q q q
                        ^ cut at 4      branch    branch of the cut at 8
                                ^ cut at 8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["BranchBatch", "LabelledCut", "Row", "collate"]

IGNORED = -100
"""A label that no loss is taken on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCut:
    """A prefix of a response, and what the self-evaluation should say of it."""

    num_tokens: int
    """Response tokens kept, at least 1; the end token is never among them."""
    prob_win_or_tie: float
    """Target in [0, 1]: 0 or 1 is a hard label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One response, what is learned of its tokens, and its cuts."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """With the end token."""
    untrained: tuple[int, ...] = ()
    """Places in the response, from 0, that the language-model loss leaves out."""
    cuts: tuple[LabelledCut, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchBatch:
    """Rows as tensors. B rows, S tokens of prompt and response, K cuts, Q question tokens."""

    input_ids: torch.Tensor
    """[B, S + K*Q]"""
    position_ids: torch.Tensor
    """[B, S + K*Q]"""
    attention_mask: torch.Tensor | None
    """[B, 1, S + K*Q, S + K*Q] of float: 0 where a token sees another, else the lowest number.
    None without branches: plain causal attention."""
    next_ids: torch.Tensor
    """[B, S]: the token that each position should predict, IGNORED where none."""
    targets: torch.Tensor
    """[B, K]: prob_win_or_tie, NaN where a row has fewer cuts."""
    num_branches: int
    """K"""
    question_length: int
    """Q"""

    @property
    def num_main(self) -> int:
        """S: tokens of prompt and response, padding included."""
        return self.next_ids.shape[1]

    def label_positions(self) -> torch.Tensor:
        """Return the places [K] in a row at which the labels are read."""
        q = self.question_length
        return self.num_main + q * torch.arange(1, self.num_branches + 1) - 1


def collate(rows: Sequence[Row], question_ids: Sequence[int], *, pad_id: int) -> BranchBatch:
    """Make one batch of rows; shorter ones are padded on the right of the response."""
    size, q = len(rows), len(question_ids)
    num_main = max(len(row.prompt_ids) + len(row.response_ids) for row in rows)
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
        first = len(row.prompt_ids)
        next_ids[b, first - 1 : len(tokens) - 1] = tokens[first:]
        next_ids[b, [first - 1 + place for place in row.untrained]] = IGNORED
        for k, cut in enumerate(row.cuts):
            cut_at[b, k] = len(row.prompt_ids) + cut.num_tokens
            targets[b, k] = cut.prob_win_or_tie
    offsets = torch.arange(q).repeat(num_branches)
    positions[:, num_main:] = cut_at.repeat_interleave(q, dim=1) + offsets
    return BranchBatch(
        input_ids=ids,
        position_ids=positions,
        attention_mask=_mask(cut_at, num_main, q) if num_branches else None,
        next_ids=next_ids,
        targets=targets,
        num_branches=num_branches,
        question_length=q,
    )


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
    mask = torch.zeros((size, 1, width, width))
    return mask.masked_fill_(~sees[:, None], torch.finfo(mask.dtype).min)
