"""The optimizer: matrices by orthogonalised momentum, the rest by AdamW, in one state."""

import subprocess
import sys

import torch
from torch import nn

from selfeval_backend.training.optim import Muon, denormals_as_zero


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, 4)
        self.hidden = nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(torch.tanh(self.hidden(self.embed(x))))  # type: ignore[no-any-return]


def step(model: Small, optimizer: Muon) -> float:
    x = torch.arange(8)
    loss = nn.functional.cross_entropy(model(x), (x + 1) % 8)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_the_loss_falls() -> None:
    model = Small()
    optimizer = Muon(model, lr=0.02, adam_lr=0.02)
    losses = [step(model, optimizer) for _ in range(100)]
    assert losses[-1] < 0.5 * losses[0]


def test_an_update_of_a_matrix_is_orthogonal_and_that_of_a_bias_is_adams() -> None:
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, Muon(model, lr=0.01, adam_lr=0.001, weight_decay=0.0))
    change = (model.hidden.weight - before["hidden.weight"]) / 0.01
    singular = torch.linalg.svdvals(change)
    assert singular.min() > 0.5 and singular.max() < 1.5
    # The first step of Adam is the learning rate, whatever the gradient.
    moved = (model.hidden.bias - before["hidden.bias"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.001), atol=1e-4, rtol=0.01)


def test_a_run_goes_on_where_its_state_was_saved() -> None:
    through, first = Small(), Small()
    optimizer = Muon(through, lr=0.02, adam_lr=0.02)
    for _ in range(6):
        step(through, optimizer)
    half = Muon(first, lr=0.02, adam_lr=0.02)
    for _ in range(3):
        step(first, half)
    second = Small()
    second.load_state_dict(first.state_dict())
    rest = Muon(second, lr=0.02, adam_lr=0.02)
    rest.load_state_dict(half.state_dict())
    for _ in range(3):
        step(second, rest)
    for mine, theirs in zip(second.parameters(), through.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_denormals_are_zero_while_a_model_is_trained_and_not_after() -> None:
    small = torch.full((4,), 1e-39)
    with denormals_as_zero():
        assert (small * 1.0).tolist() == [0.0] * 4
    assert (small * 1.0 > 0).all()


def test_the_threads_that_a_process_starts_then_have_it_too() -> None:
    script = """
import torch
from selfeval_backend.training.optim import denormals_as_zero
torch.set_num_threads(2)
with denormals_as_zero():
    assert torch.full((1_000_000,), 1e-39).mul(1.0).eq(0).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
