"""Branches see what inference sees: several cuts in one pass equal one pass each."""

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.training.branches import (
    LabelledCut,
    Row,
    collate,
    collate_plain,
    run,
    takes_branches,
)
from selfeval_backend.training.finetune import load_weights
from selfeval_backend.training.losses import LossWeights, compute_losses
from tests.unit.training.conftest import new_model

QUESTION = (5, 6, 7)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return new_model().eval()


def row(prompt: tuple[int, ...], response: tuple[int, ...], *cuts: int) -> Row:
    return Row(
        prompt_ids=prompt,
        response_ids=response,
        cuts=tuple(LabelledCut(num_tokens=n, prob_win_or_tie=1.0) for n in cuts),
    )


def test_each_branch_equals_a_plain_forward_pass_of_its_prefix(model: LlamaForCausalLM) -> None:
    rows = [row((1, 2, 3), (10, 11, 12, 13, 14), 2, 5), row((1, 9), (20, 21, 22), 1)]
    batch = collate(rows, QUESTION, pad_id=0)
    with torch.inference_mode():
        branches = run(model, batch, batch.label_positions[0])
        for b, r in enumerate(rows):
            for k, cut in enumerate(r.cuts):
                ids = (*r.prompt_ids, *r.response_ids[: cut.num_tokens], *QUESTION)
                plain = model(input_ids=torch.tensor([ids])).logits[0, -1]
                torch.testing.assert_close(branches[b, k], plain, atol=1e-5, rtol=1e-4)


def test_branches_leave_the_language_model_loss_alone(model: LlamaForCausalLM) -> None:
    weights = LossWeights(language_model=1.0)
    plain = collate([row((1, 2), (10, 11, 12))], QUESTION, pad_id=0)
    branched = collate([row((1, 2), (10, 11, 12), 1, 3)], QUESTION, pad_id=0)
    losses = [
        compute_losses(model, b, weights, label_ids=(3, 4)).language_model.item()
        for b in (plain, branched)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] > 1.0


def test_a_sequence_for_each_cut_says_the_same_as_branches(model: LlamaForCausalLM) -> None:
    rows = [row((1, 2, 3), (10, 11, 12, 13, 14), 2, 5), row((1, 9), (20, 21, 22), 1)]
    weights = LossWeights(language_model=1.0, label=1.0, kl=1.0)
    branched, plain = (
        compute_losses(
            model, make(rows, QUESTION, pad_id=0), weights, label_ids=(3, 4), reference=model
        )
        for make in (collate, collate_plain)
    )
    assert branched.label.item() == pytest.approx(plain.label.item(), abs=1e-5)
    given = branched.logits[~branched.logits.isnan()]
    torch.testing.assert_close(given, plain.logits.flatten(), atol=1e-5, rtol=1e-4)


def test_whether_a_model_takes_branches_is_tried(model: LlamaForCausalLM) -> None:
    assert takes_branches(model, max_tokens=64)
    torch.manual_seed(0)
    sliding = MistralForCausalLM(
        MistralConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=32,
        )
    )
    assert takes_branches(sliding, max_tokens=32)
    assert not takes_branches(sliding, max_tokens=64)
    recurrent = MambaForCausalLM(
        MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, state_size=4)
    )
    assert not takes_branches(recurrent, max_tokens=32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_no_reason_against_branches(dtype: torch.dtype) -> None:
    model = load_weights(REFERENCE_FOLDER, dtype=dtype)
    assert takes_branches(model, max_tokens=64)


def test_untrained_response_tokens_and_padding_have_no_label() -> None:
    first = Row(prompt_ids=(1, 2), response_ids=(10, 11, 12), untrained=(0, 1))
    batch = collate([first, row((1,), (10, 11, 12, 13))], QUESTION, pad_id=0)
    assert batch.next_ids.tolist() == [[-100, -100, -100, 12, -100], [10, 11, 12, 13, -100]]
    assert batch.attention_mask is None


def test_the_kl_to_itself_is_zero_and_the_label_loss_is_a_cross_entropy(
    model: LlamaForCausalLM,
) -> None:
    batch = collate([row((1, 2), (10, 11, 12), 3)], QUESTION, pad_id=0)
    losses = compute_losses(
        model,
        batch,
        LossWeights(label=1.0, kl=1.0),
        label_ids=(3, 4),
        reference=model,
    )
    with torch.inference_mode():
        ids = torch.tensor([[1, 2, 10, 11, 12, *QUESTION]])
        expected = -model(input_ids=ids).logits[0, -1].log_softmax(-1)[3]
    assert losses.kl.item() == pytest.approx(0.0, abs=1e-5)
    assert losses.label.item() == pytest.approx(float(expected), abs=1e-4)
