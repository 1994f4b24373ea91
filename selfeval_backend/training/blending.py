"""Go back some of the way from fine-tuned weights to those that training began with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from selfeval_backend.errors import ConfigurationError

__all__ = ["blend"]


def blend(model: nn.Module, start: Mapping[str, torch.Tensor], *, share: float) -> None:
    """Set a model's weights between `start` and its own.

    Source: Wortsman et al. 2022, arXiv 2109.01903: between the two, what was learned is kept and
    what was lost on the way comes back.

    Args:
        model: Fine-tuned; changed in place.
        start: The weights before, by name.
        share: Of the way from `start` to the model's own weights, in [0, 1].

    Raises:
        ConfigurationError: `share` is out of range.
    """
    if not 0 <= share <= 1:
        raise ConfigurationError("share", share, "a number in [0, 1]")
    tuned = model.state_dict()
    model.load_state_dict({name: torch.lerp(start[name], tuned[name], share) for name in tuned})
