"""Muon: updates are orthogonal, and it learns."""

import torch
from torch import nn

from selfeval_backend.training.optim import HybridOptimizer, Muon


def test_an_update_has_singular_values_near_one_times_the_learning_rate() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 32))
    weight.grad = torch.randn(16, 32) * torch.logspace(-1, 1, 16)[:, None]
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    singular = torch.linalg.svdvals(weight.detach())
    assert 0.05 < singular.min() <= singular.max() < 0.14


def test_it_fits_a_linear_map_and_resumes_where_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    target = torch.randn(8, 8)
    optimizer = HybridOptimizer(model, lr=0.05, adam_lr=0.01)

    def step(scale: float) -> float:
        x = torch.randn(64, 8)
        loss = (model(x) - x @ target).square().mean()
        loss.backward()
        optimizer.step(lr_scale=scale)
        return loss.item()

    first = step(1.0)
    losses = [step(1.0 - i / 200) for i in range(200)]
    assert losses[-1] < first / 20
    state = optimizer.state_dict()
    other = HybridOptimizer(model, lr=0.05, adam_lr=0.01)
    other.load_state_dict(state)
    assert other.state_dict()["0"]["state"].keys() == state["0"]["state"].keys()
