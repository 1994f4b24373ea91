"""Whether the generator is what it was: KL on response tokens, measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap
from selfeval_backend.training.branches import LabelledCut, Row, collate_plain, move
from selfeval_backend.training.losses import LossWeights, compute_losses

__all__ = ["measure_kl"]


@torch.inference_mode()
def measure_kl(before: Any, after: Any, rows: Iterable[Row], *, seed: int) -> Estimate:
    """Return KL(before || after) in nats a response token, with a 95 % interval over responses.

    Args:
        before: The model that drew the responses.
        after: The fine-tuned one.
        rows: Responses.
        seed: Of the bootstrap.
    """
    sums, counts = [], []
    for row in rows:
        whole = LabelledCut(num_tokens=len(row.response_ids), prob_win_or_tie=1.0)
        asked = Row(prompt_ids=row.prompt_ids, response_ids=row.response_ids, cuts=(whole,))
        # The question is no part of it: any one token stands for it, and its label is not read.
        batch = move(collate_plain([asked], row.response_ids[-1:], pad_id=0), after.device)
        losses = compute_losses(
            after, batch, LossWeights(kl=1.0), label_ids=(0, 1), reference=before
        )
        sums.append(float(losses.kl) * len(row.response_ids))
        counts.append(len(row.response_ids))
    total, tokens = np.array(sums), np.array(counts)
    return bootstrap(
        lambda weights: float(weights @ total / (weights @ tokens)), len(total), seed=seed
    )
