"""The reference model's tokenizer: byte-level BPE, numbers up to 999 as one token each.

Numbers in groups of up to three digits, as Llama 3 has them, with the space before them: answers
are far shorter than digit by digit. Bytes are the fallback, so that any text goes in and comes out
whole. The self-evaluation question is one token, which makes asking it cost five tokens with the
template around it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    demonstrate,
    generate_problems,
)
from selfeval_backend.selfeval import PAPER_QUESTION

__all__ = ["CHAT_TEMPLATE", "build_tokenizer"]

CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_NUM_DOCUMENTS = 20_000
_LARGEST_TOTAL = 200


def build_tokenizer(*, seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated problems and demonstrations of the train split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    tokenizer.add_tokens([PAPER_QUESTION])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # of transformers
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for problem in islice(
        generate_problems("train", seed=seed, unique=False, shapes=DEMONSTRATION_SHAPES),
        _NUM_DOCUMENTS,
    ):
        yield problem.text
        yield demonstrate(problem, rng, right=rng.random() < 0.5).text
    for _ in range(50):
        yield from (f"{number} {number}" for number in range(_LARGEST_TOTAL))
        yield from ("Yes.", "No.")
