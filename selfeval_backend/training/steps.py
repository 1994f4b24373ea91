"""One training step: losses of a batch, and the loop that repeats it.

Axes: B rows, S tokens of prompt and response, K cuts, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from selfeval_backend.training.branches import IGNORED, BranchBatch
from selfeval_backend.training.optim import HybridOptimizer

__all__ = ["LossWeights", "Losses", "compute_losses", "train"]

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """What each part of the loss counts."""

    language_model: float = 0.0
    """Cross-entropy of the response tokens."""
    label: float = 0.0
    """Cross-entropy on the one label token."""
    kl: float = 0.0
    """KL(reference || model) on response tokens: preserves the generator."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over a batch, in nats."""

    total: torch.Tensor
    language_model: float
    label: float
    kl: float


def compute_losses(
    model: nn.Module,
    head: nn.Module,
    batch: BranchBatch,
    weights: LossWeights,
    *,
    label_ids: tuple[int, int],
    reference: nn.Module | None = None,
) -> Losses:
    """Run the model once over a batch and take every loss that has a weight.

    Args:
        model: Gives hidden states; compiled or not.
        head: From hidden states to logits.
        batch: What it is trained on.
        weights: Of the losses.
        label_ids: Tokens of (win or tie, loss).
        reference: The model whose distribution is preserved, with logits; for the KL.
    """
    hidden = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    ).last_hidden_state
    trained = batch.next_ids != IGNORED  # [B, S]
    zero = hidden.new_zeros(())
    lm = kl = label = zero
    if weights.language_model or weights.kl:
        logits = head(hidden[:, : batch.num_main][trained])  # [N, V]
        if weights.language_model:
            lm = F.cross_entropy(logits, batch.next_ids[trained])
        if weights.kl:
            assert reference is not None, "a KL term needs its reference"
            kl = _kl(logits, _reference_logits(reference, batch, trained))
    if weights.label and batch.num_branches:
        label = _label_loss(head(hidden[:, batch.label_positions()]), batch.targets, label_ids)
    total = weights.language_model * lm + weights.label * label + weights.kl * kl
    return Losses(total, lm.item(), label.item(), kl.item())


def _label_loss(
    logits: torch.Tensor, targets: torch.Tensor, label_ids: tuple[int, int]
) -> torch.Tensor:
    """Cross-entropy with soft targets; logits: [B, K, V], targets: [B, K]."""
    given = ~targets.isnan()
    logprobs = logits[given].log_softmax(-1)[:, list(label_ids)]  # [N, 2]
    target = targets[given]
    return -(target * logprobs[:, 0] + (1 - target) * logprobs[:, 1]).mean()


def _kl(logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    return F.kl_div(
        logits.log_softmax(-1),
        reference_logits.log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )


@torch.no_grad()
def _reference_logits(
    reference: nn.Module, batch: BranchBatch, trained: torch.Tensor
) -> torch.Tensor:
    # Right padding and a causal mask: what is trained on never sees the padding.
    ids = batch.input_ids[:, : batch.num_main]
    logits: torch.Tensor = reference(input_ids=ids, use_cache=False).logits
    return logits[trained]


def train(
    model: Any,
    batches: Iterator[BranchBatch],
    *,
    steps: int,
    weights: LossWeights,
    label_ids: tuple[int, int],
    lr: float,
    adam_lr: float,
    log: Log,
    checkpoint: Path | None = None,
    reference: nn.Module | None = None,
    warmup: int = 50,
    decay_fraction: float = 0.5,
    log_every: int = 100,
) -> None:
    """Train a causal language model in place, and leave it in evaluation mode.

    The learning rate rises over `warmup` steps and falls to zero over the last `decay_fraction`.

    Args:
        model: A transformers causal language model, on its device.
        batches: At least `steps` of them.
        steps: Optimizer steps.
        weights: Of the losses.
        label_ids: Tokens of (win or tie, loss).
        lr: Of Muon.
        adam_lr: Of AdamW.
        log: Told of progress.
        checkpoint: File from which a stopped run goes on, and that it keeps up to date.
        reference: For the KL.
        warmup: Steps.
        decay_fraction: Of all steps.
        log_every: Steps.
    """
    optimizer = HybridOptimizer(model, lr=lr, adam_lr=adam_lr)
    done = _resume(checkpoint, model, optimizer)
    if done >= steps:
        model.eval()
        return
    backbone = _compiled(model.model)
    model.train()
    began, sums, tokens = time.monotonic(), torch.zeros(3), 0
    for step, batch in enumerate(batches):
        if step >= steps:
            break
        if step < done:
            continue  # drawn again, so that a resumed run sees the data that is left
        losses = compute_losses(
            backbone, model.lm_head, batch, weights, label_ids=label_ids, reference=reference
        )
        losses.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        left = (steps - step) / steps
        optimizer.step(lr_scale=min(1.0, (step + 1) / warmup, left / decay_fraction))
        sums += torch.tensor([losses.language_model, losses.label, losses.kl])
        tokens += batch.input_ids.numel()
        if (step + 1) % log_every == 0:
            lm, label, kl = (sums / log_every).tolist()
            rate = tokens / (time.monotonic() - began)
            log(
                f"step {step + 1}/{steps}  lm {lm:.4f}  label {label:.4f}  kl {kl:.4f}  "
                f"{rate:.0f} tokens/s"
            )
            sums.zero_()
            if checkpoint is not None and (step + 1) % (5 * log_every) == 0:
                _save(checkpoint, model, optimizer, step + 1)
    if checkpoint is not None:
        _save(checkpoint, model, optimizer, steps)
    model.eval()


def _compiled(module: Any) -> Any:
    """Compile for speed (8,400 against 7,400 tokens/s, two cores) where a compiler is there."""
    import shutil

    if torch.cuda.is_available() or shutil.which("g++"):
        return torch.compile(module, dynamic=True)
    return module


def _save(path: Path, model: nn.Module, optimizer: HybridOptimizer, steps: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path | None, model: nn.Module, optimizer: HybridOptimizer) -> int:
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["steps"])
