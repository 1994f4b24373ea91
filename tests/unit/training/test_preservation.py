"""KL to the model before, per response token."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from selfeval_backend.training.branches import Row
from selfeval_backend.training.preservation import measure_kl
from tests.unit.training.conftest import new_model


def test_it_is_zero_for_the_same_and_the_mean_over_tokens_else() -> None:
    before, after = new_model().eval(), new_model().eval()
    rows = [
        Row(prompt_ids=(1, 2), response_ids=(20, 21, 22)),
        Row(prompt_ids=(1,), response_ids=(25, 26)),
    ]
    assert measure_kl(before, after, rows, seed=0).value == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        after.lm_head.weight.mul_(1.5)
    expected = [_by_hand(before, after, row) for row in rows]
    measured = measure_kl(before, after, rows, seed=0)
    assert measured.value == pytest.approx(sum(map(sum, expected)) / 5, rel=1e-4)
    assert measured.low <= measured.value <= measured.high


def _by_hand(before: LlamaForCausalLM, after: LlamaForCausalLM, row: Row) -> list[float]:
    ids = torch.tensor([row.prompt_ids + row.response_ids])
    with torch.no_grad():
        old, new = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (before, after))
    each = (old.exp() * (old - new)).sum(-1)
    first = len(row.prompt_ids) - 1
    return each[first : first + len(row.response_ids)].tolist()
