"""A real vLLM server as the judge."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from selfeval_backend.evaluation.tasks.judge import Judge, judge_messages
from tests.vllm_server import start_vllm_server

pytestmark = pytest.mark.slow

_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tiny_judge(folder: Path) -> Path:
    """Write a model that knows one thing: whatever it reads, "M" is likelier than "m", 3 to 1."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [message["content"] for message in judge_messages("Say hi.", "Hello.", "Hi!")]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=_TEMPLATE
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    first, second = fast.convert_tokens_to_ids(["m", "M"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Every position holds a vector of ones, which the head turns into the answer.
            weight.fill_(1.0 if "embed_tokens" in name or "norm" in name else 0.0)
        model.lm_head.weight[:] = -1.0
        model.lm_head.weight[first] = 0.0
        model.lm_head.weight[second] = torch.tensor(3.0).log() / 64
    model.save_pretrained(folder)
    return folder


def test_vllm_judges(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("the extra with vLLM is not installed")
    folder = tiny_judge(tmp_path)
    with start_vllm_server("--max-model-len", "2048", folder=folder) as server:
        judge = Judge(server.base_url, model="reference")
        # It prefers the second place to the first, three to one: swapping makes it even.
        assert judge._prob_second("Say hi.", "Hello.", "Hi!") == pytest.approx(0.75, abs=1e-3)
        assert judge.preference("Say hi.", "Hi!", "Hello.") == pytest.approx(0.5, abs=1e-3)
        judge.close()
