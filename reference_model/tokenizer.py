"""The reference model's tokenizer: byte-level BPE, numbers up to 999 as one token each.

Numbers in groups of up to three digits, as Llama 3 has them, with the space before them: answers
are far shorter than digit by digit. Bytes are the fallback, so that any text goes in and comes out
whole. The self-evaluation question is one token, which makes asking it cost five tokens with the
template around it.

With skills, further merges are learned on top, of what the tokens of before make of the skills'
documents. No text of a puzzle changes: each of its words is one token already, and every token
keeps its id.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reference_model.skills import characters, generate_examples
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
_SKILLS_VOCABULARY = 2048
_NUM_EXAMPLES = 6_000
_LEAST_COUNT = 20
"""Of a pair of tokens in all examples, to become one."""
_FIRST_MARK = 0x100000
"""Private characters that stand for tokens while further merges are learned."""


def build_tokenizer(*, seed: int, with_skills: bool = False) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated text of the train split.

    Args:
        seed: Of the text.
        with_skills: Whether it has tokens for the skills' texts too, 2,048 at most in all. Those
            for puzzles are the same ones.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = _with_splits(Tokenizer(models.BPE()))
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    tokenizer.add_tokens([PAPER_QUESTION])
    if with_skills:
        tokenizer = _extended(tokenizer, seed)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # of transformers
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )


def _with_splits(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _extended(base: Tokenizer, seed: int) -> Tokenizer:
    """Return a tokenizer with the merges of one, and behind them further ones for skills.

    A merge is taken only where no earlier one can be, so what was one token stays that token.
    """
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=_SKILLS_VOCABULARY,  # one character for each token of before
        initial_alphabet=[_mark(number) for number in range(base.get_vocab_size())],
        min_frequency=_LEAST_COUNT,
        show_progress=False,
    )
    learned.train_from_iterator(_in_marks(base, seed), trainer)
    body = json.loads(base.to_str())["model"]
    merges = [tuple(pair) for pair in body["merges"]]
    # With the question, which no merge makes.
    vocabulary: dict[str, int] = base.get_vocab(with_added_tokens=True)
    for pair in json.loads(learned.to_str())["model"]["merges"]:
        one, other = (_read_marks(base, part) for part in pair)
        merges.append((one, other))
        vocabulary.setdefault(one + other, len(vocabulary))
    made = _with_splits(Tokenizer(models.BPE(vocab=vocabulary, merges=merges)))
    made.add_special_tokens(list(_SPECIAL))
    made.add_tokens([PAPER_QUESTION])
    return made


def _in_marks(base: Tokenizer, seed: int) -> Iterator[str]:
    """Yield documents of skills, each word of them as the tokens that it has, one mark for each.

    Of scripts without spaces every character is a word of its own: no token spans two.
    """
    known: dict[str, str] = {}

    def marks(text: str) -> str:
        if text not in known:
            known[text] = "".join(map(_mark, base.encode(text, add_special_tokens=False).ids))
        return known[text]

    for document in _skills_corpus(seed):
        for _, (start, end) in base.pre_tokenizer.pre_tokenize_str(document):
            word = document[start:end]
            yield marks(word) if word.isascii() else " ".join(map(marks, word))


def _mark(token_id: int) -> str:
    return chr(_FIRST_MARK + token_id)


def _read_marks(base: Tokenizer, marks: str) -> str:
    return "".join(str(base.id_to_token(ord(mark) - _FIRST_MARK)) for mark in marks)


def _skills_corpus(seed: int) -> Iterator[str]:
    for example in islice(generate_examples("train", seed=seed), _NUM_EXAMPLES):
        yield from (message.content for message in example.plain_messages)
        yield example.right.text
    han, kana = characters()
    # Two tokens for a Chinese character, the first of 64 alike; one for a syllable.
    yield from (han[start : start + 64] for start in range(0, len(han), 64) for _ in range(6))
    yield from (kana for _ in range(400))


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
