"""What a model says of prefixes of its samples does not depend on who shares a batch with them."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.training.scoring import score_prefixes
from tests.unit.samples.recorded import recording
from tests.unit.samples.recorded import sample as made
from tests.unit.training.conftest import new_model

QUESTION, LABELS = (5, 6, 7), (3, 4)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return new_model().eval()


def prompt(prompt_ids: tuple[int, ...], *responses: tuple[int, ...]) -> PromptRecord:
    samples = [
        replace(made(index, [0.5]), token_ids=ids, label_logprobs={})
        for index, ids in enumerate(responses)
    ]
    return replace(recording(samples).prompts[0], prompt_ids=prompt_ids)


PROMPTS = [
    prompt((1, 2), (10, 11, 12, 13, 14, 15), (), (16,)),
    prompt(tuple(range(8, 38)), (20, 21), (22, 23, 24)),
]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_prefix_is_asked_as_at_inference(model: LlamaForCausalLM, batch_size: int) -> None:
    found = score_prefixes(
        PROMPTS,
        model,
        cuts=lambda sample: [n for n in (0, 1, 3) if n < len(sample.token_ids)],
        question_ids=QUESTION,
        label_ids=LABELS,
        pad_id=0,
        batch_size=batch_size,
    )
    assert [len(r.samples) for r in found] == [3, 2]
    for scored in found:
        for sample in scored.samples:
            asked = list(sample.label_logprobs)
            assert asked == sorted({n for n in (1, 3) if n < len(sample.token_ids)} | {asked[-1]})
            assert asked[-1] == len(sample.token_ids)
            for n, said in sample.label_logprobs.items():
                ids = (*scored.prompt_ids, *sample.token_ids[:n], *QUESTION)
                with torch.inference_mode():
                    plain = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                assert said == pytest.approx(plain[list(LABELS)].tolist(), abs=1e-4)
