"""The losses of a batch.

Axes: B rows, S tokens of prompt and response, K cuts, P positions whose logits are needed, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from selfeval_backend.training.branches import IGNORED, BranchBatch, run

__all__ = ["LossWeights", "Losses", "compute_losses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """What each part of the loss counts."""

    language_model: float = 0.0
    """Cross-entropy of the response tokens."""
    label: float = 0.0
    """Cross-entropy on the one label token."""
    kl: float = 0.0
    """KL(reference || model) on response tokens: preserves the generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Means over a batch, in nats, and what the labels were predicted to be."""

    total: torch.Tensor
    language_model: torch.Tensor
    label: torch.Tensor
    kl: torch.Tensor
    logits: torch.Tensor
    """[B, K]: log-odds of win or tie; NaN where a row has fewer cuts."""


def compute_losses(
    model: Any,
    batch: BranchBatch,
    weights: LossWeights,
    *,
    label_ids: tuple[int, int],
    reference: Callable[..., Any] | None = None,
) -> Losses:
    """Run the model once over a batch and take every loss that has a weight.

    Args:
        model: A transformers causal language model, wrapped for several devices or not.
        batch: What it is trained on.
        weights: Of the losses.
        label_ids: Tokens of (win or tie, loss).
        reference: Called as the model is; its distribution is preserved. For the KL.
    """
    on_tokens = bool(weights.language_model or weights.kl)
    trained = batch.next_ids != IGNORED  # [B, S]
    needed = batch.label_positions.flatten()
    if on_tokens:
        needed = torch.cat([needed, trained.any(dim=0).nonzero()[:, 0]])
    positions = torch.unique(needed)  # [P], ascending
    logits = run(model, batch, positions)  # [B, P, V]
    zero = logits.new_zeros((), dtype=torch.float32)
    lm = kl = zero
    if on_tokens:
        rows, places = trained.nonzero(as_tuple=True)  # [N]
        mine = logits[rows, torch.searchsorted(positions, places)].float()  # [N, V]
        if weights.language_model:
            lm = F.cross_entropy(mine, batch.next_ids[trained])
        if weights.kl:
            assert reference is not None, "a KL term needs its reference"
            kl = _kl(mine, _reference_logits(reference, batch, rows, places))
    label, log_odds = _label_loss(logits, positions, batch, label_ids)
    total = weights.language_model * lm + weights.label * label + weights.kl * kl
    return Losses(total=total, language_model=lm, label=label, kl=kl, logits=log_odds)


def _label_loss(
    logits: torch.Tensor, positions: torch.Tensor, batch: BranchBatch, label_ids: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy with soft targets, and log-odds [B, K]; logits: [B, P, V]."""
    given = ~batch.targets.isnan()
    log_odds = torch.full_like(batch.targets, float("nan"))
    if not given.any():
        return logits.new_zeros((), dtype=torch.float32), log_odds
    rows, _ = given.nonzero(as_tuple=True)
    places = torch.searchsorted(positions, batch.label_positions[given])
    logprobs = logits[rows, places].float().log_softmax(-1)[:, list(label_ids)]  # [N, 2]
    target = batch.targets[given]
    loss = -(target * logprobs[:, 0] + (1 - target) * logprobs[:, 1]).mean()
    log_odds[given] = (logprobs[:, 0] - logprobs[:, 1]).detach()
    return loss, log_odds


def _kl(logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    return F.kl_div(
        logits.log_softmax(-1),
        reference_logits.log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )


@torch.no_grad()
def _reference_logits(
    reference: Callable[..., Any], batch: BranchBatch, rows: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    # Right padding and a causal mask: what is trained on never sees padding or branches.
    positions: torch.Tensor = torch.unique(places)
    ids = batch.input_ids[:, : batch.num_main]
    logits: torch.Tensor = reference(
        input_ids=ids, use_cache=False, logits_to_keep=positions
    ).logits
    return logits[rows, torch.searchsorted(positions, places)].float()
