"""The trainer: learns labels, keeps the generator, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from selfeval_backend.training.branches import LabelledCut, Row
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.trainer import (
    Examples,
    Item,
    LengthGroupedSampler,
    Phase,
    RowCollator,
    train_phase,
)
from tests.unit.training.conftest import new_model

COLLATOR = RowCollator(question_ids=(5, 6), pad_id=0, branches=True)


class Made(Examples):
    """Responses whose label stands in their first token."""

    def __init__(self, n: int) -> None:
        self._items = [self._row(k) for k in range(n)]

    @staticmethod
    def _row(k: int) -> Row:
        length = 4 + k % 5
        response = (20 + k % 2, *(30 + (k + j) % 8 for j in range(length)))
        cuts = tuple(
            LabelledCut(num_tokens=n, prob_win_or_tie=float(k % 2)) for n in (2, length + 1)
        )
        return Row(prompt_ids=(1, 10 + k % 7), response_ids=response, cuts=cuts)

    @property
    def lengths(self) -> Sequence[int]:
        return [row.num_tokens for row in self._items]

    def __getitem__(self, place: int) -> Item:
        return (self._items[place],)


def phase(folder: Path, **given: Any) -> Phase:
    facts: dict[str, Any] = {
        "name": "labels",
        "batch_items": 8,
        "lr": 3e-3,
        "weights": LossWeights(label=1.0),
        "label_ids": (3, 4),
        "steps": 12,
        "warmup_steps": 2,
        "save_steps": 4,
    }
    return Phase(folder=folder, **{**facts, **given})


def losses(history: list[dict[str, float]]) -> list[float]:
    return [line["eval_label"] for line in history if "eval_label" in line]


def weights(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_label_is_learned_and_watched(tmp_path: Path) -> None:
    history = train_phase(
        new_model(),
        Made(64),
        phase(tmp_path, steps=60, eval_steps=30),
        COLLATOR,
        validation=Made(16),
    )
    said = losses(history)
    assert said[0] > 0.6
    assert said[-1] < 0.1
    assert list((tmp_path / "tensorboard" / "labels").glob("events*"))


def test_a_kl_term_keeps_the_generator(tmp_path: Path) -> None:
    moved = []
    for weight in (0.0, 30.0):
        history = train_phase(
            new_model(),
            Made(64),
            phase(
                tmp_path / str(weight),
                steps=40,
                eval_steps=40,
                weights=LossWeights(label=1.0, kl=max(weight, 1e-6)),
            ),
            COLLATOR,
            reference=new_model().eval(),
            validation=Made(16),
        )
        moved.append([line["eval_kl"] for line in history if "eval_kl" in line])
    assert moved[0][0] == pytest.approx(0.0, abs=1e-5)
    assert moved[1][-1] < 0.5 * moved[0][-1]


class StoppedError(Exception):
    """What stops a run in a test."""


@pytest.mark.parametrize("adam_lr", [None, 1e-3])
@pytest.mark.parametrize("stop_at", [3, 7, 12])
def test_a_stopped_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, stop_at: int, adam_lr: float | None
) -> None:
    through = new_model()
    train_phase(through, Made(40), phase(tmp_path / "through", adam_lr=adam_lr), COLLATOR)

    def stop(done: int, _: int) -> None:
        if done == stop_at:
            raise StoppedError

    broken = phase(tmp_path / "broken", adam_lr=adam_lr)
    with pytest.raises(StoppedError):
        train_phase(new_model(), Made(40), broken, COLLATOR, tell=stop)
    again = new_model()
    steps: list[int] = []
    train_phase(again, Made(40), broken, COLLATOR, tell=lambda done, _: steps.append(done))
    assert torch.equal(weights(again), weights(through))
    assert steps == list(range(stop_at // 4 * 4 + 1, 13)) or stop_at == 12
    train_phase(last := new_model(), Made(40), broken, COLLATOR)
    assert torch.equal(weights(last), weights(through))  # finished: only read


def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path: Path) -> None:
    through = new_model()
    train_phase(through, Made(40), phase(tmp_path), COLLATOR)
    torn = tmp_path / "checkpoints" / "labels" / "checkpoint-12"
    (torn / "complete").unlink()
    (torn / "model.safetensors").write_bytes(b"torn")
    again = new_model()
    train_phase(again, Made(40), phase(tmp_path), COLLATOR)
    assert torch.equal(weights(again), weights(through))


def test_an_epoch_has_every_item_once_near_lengths_together() -> None:
    lengths = [(37 * n) % 101 for n in range(1000)]
    sampler = LengthGroupedSampler(lengths, 8, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(1000))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    spreads = [
        max(lengths[i] for i in first[k : k + 8]) - min(lengths[i] for i in first[k : k + 8])
        for k in range(0, 1000, 8)
    ]
    assert sum(spreads) / len(spreads) < 10


def test_one_sequence_a_cut_trains_as_branches_do(tmp_path: Path) -> None:
    ends = []
    for branches in (True, False):
        model = new_model()
        collator = RowCollator(question_ids=(5, 6), pad_id=0, branches=branches)
        train_phase(model, Made(40), phase(tmp_path / str(branches)), collator)
        ends.append(weights(model))
    torch.testing.assert_close(ends[0], ends[1], atol=2e-3, rtol=0.0)
