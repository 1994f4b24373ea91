"""Muon for the hidden matrices, AdamW for the rest.

On the reference generator Muon reached in 175 steps (loss 0.32) what AdamW was far from (0.82), at
about 5 % more time a step (two-core CPU, batch 48, same data). `torch.optim.Muon` runs its
Newton-Schulz
steps in bfloat16, which CPUs without bfloat16 units emulate: there a step took several times
longer. This one keeps float32 and batches equal shapes.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with
its quintic coefficients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Muon", "denormals_as_zero"]


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Let this thread, and those that it starts, count numbers below 1e-38 as zero, as GPUs do.

    A model that has learned to copy has gradients that small, and a CPU takes longer over them: a
    backward pass of the reference generator took five times as long (docs/experiments.md).
    PyTorch's threads have it from the one that starts them: it comes before any other work.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum on the matrices between the embeddings, AdamW on the rest.

    Args:
        model: What is trained.
        lr: Of the matrices, in units of the spectral norm of an update.
        adam_lr: Of the rest.
        momentum: Nesterov momentum of the matrices.
        weight_decay: Of the matrices, decoupled; the rest has none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, param in model.named_parameters():
            is_hidden = param.ndim == 2 and "embed" not in name and "lm_head" not in name
            (hidden if is_hidden else rest).append(param)
        groups: list[dict[str, Any]] = [
            {"params": hidden, "lr": lr, "weight_decay": weight_decay, "momentum": momentum},
            {"params": rest, "lr": adam_lr, "weight_decay": 0.0, "momentum": None},
        ]
        super().__init__([g for g in groups if g["params"]], betas=(0.9, 0.98))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        groups = self.param_groups
        for group in groups:
            if group["momentum"] is not None:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if group["momentum"] is None]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: defaultdict[torch.Size, list[tuple[nn.Parameter, torch.Tensor]]]
        by_shape = defaultdict(list)
        for param in group["params"]:
            if param.grad is not None:
                update = self._momentum(param, group["momentum"])
                by_shape[update.shape].append((param, update))
        for pairs in by_shape.values():
            updates = _orthogonalise(torch.stack([update for _, update in pairs]))
            for (param, _), update in zip(pairs, updates, strict=True):
                scale = max(1.0, param.shape[0] / param.shape[1]) ** 0.5
                param.mul_(1.0 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, param: nn.Parameter, momentum: float) -> torch.Tensor:
        assert param.grad is not None, "asked for by the caller"
        state = self.state[param]
        if not state:
            # The step is AdamW's, which looks for one when a state is loaded.
            state["step"], state["momentum"] = torch.tensor(0.0), torch.zeros_like(param)
        buffer: torch.Tensor = state["momentum"]
        buffer.lerp_(param.grad, 1.0 - momentum)
        return param.grad.lerp(buffer, momentum)


def _orthogonalise(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices, roughly; x: [N, rows, columns]."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT  # [N, rows, rows]
        x = _A * x + (_B * a + _C * a @ a) @ x
    return x.mT if tall else x
