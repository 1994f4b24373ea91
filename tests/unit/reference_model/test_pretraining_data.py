"""Learning skills: their tokens, their share of what is shown, and a few steps of training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from reference_model.generator import SIZES, GeneratorRecipe, new_generator
from reference_model.pretraining_data import Copies, Demonstrations
from reference_model.skills import generate_examples
from reference_model.tokenizer import build_tokenizer
from selfeval_backend.chat import ChatTemplate
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    demonstrate,
    generate_problems,
)
from selfeval_backend.selfeval import PAPER_QUESTION, SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.branches import BranchBatch
from selfeval_backend.training.losses import LossWeights, compute_losses
from selfeval_backend.training.trainer import Item, Phase, RowCollator, train_phase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    """One for puzzles alone."""
    return build_tokenizer(seed=0)


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerFast:
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(REFERENCE_FOLDER)
    return loaded


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """One with skills, saved and loaded."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(seed=0, with_skills=True).save_pretrained(folder)
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return loaded


def chat_of(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    return ChatTemplate(tokenizer, name="test")


def demonstrations(
    tokenizer: PreTrainedTokenizerFast, *, num_cuts: int = 0, size: int = 8, share: float = 0.0
) -> Demonstrations:
    return Demonstrations(
        chat=chat_of(tokenizer),
        end_id=int(tokenizer.eos_token_id),
        batch_size=size,
        num_cuts=num_cuts,
        seed=1,
        skill_share=share,
    )


# Tokens.


def test_puzzles_have_the_same_tokens(
    plain: PreTrainedTokenizerFast,
    skilled: PreTrainedTokenizerFast,
    shipped: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(0)
    problems = generate_problems("train", seed=5, shapes=DEMONSTRATION_SHAPES)
    for problem in islice(problems, 500):
        for text in (
            problem.text,
            *(demonstrate(problem, rng, right=r).text for r in (True, False)),
        ):
            ids = plain(text)["input_ids"]
            assert skilled(text)["input_ids"] == shipped(text)["input_ids"] == ids
    for tokenizer in (skilled, shipped):
        assert tokenizer(PAPER_QUESTION)["input_ids"] == plain(PAPER_QUESTION)["input_ids"]
        assert plain.get_vocab().items() <= tokenizer.get_vocab().items()


def test_the_vocabulary_has_no_gap_and_is_no_larger_than_said(
    skilled: PreTrainedTokenizerFast,
) -> None:
    assert len(skilled) <= 2048
    assert sorted(skilled.get_vocab().values()) == list(range(len(skilled)))


@pytest.mark.parametrize(
    "text", ["na\u00efve \u4f60\u597d \u3053\u3093 \U0001f600 12345\n\ttabs", '{"a": "\u682a"}']
)
def test_any_text_comes_back(skilled: PreTrainedTokenizerFast, text: str) -> None:
    assert skilled.decode(skilled(text)["input_ids"]) == text


def test_characters_of_other_scripts_are_one_token_or_two(
    skilled: PreTrainedTokenizerFast,
) -> None:
    assert len(skilled("\u3053\u3093\u306b\u3061\u306f")["input_ids"]) == 5
    assert len(skilled("\u6771\u4eac\u90fd")["input_ids"]) <= 6


def test_what_skills_need_fits_the_context(skilled: PreTrainedTokenizerFast) -> None:
    chat = chat_of(skilled)
    for example in islice(generate_examples("train", seed=3), 1500):
        prompt = len(chat.prompt_ids(example.messages, example.tools))
        response = len(chat.response_ids(example.right.text))
        assert prompt + response + 1 <= SIZES["reference"].context_length
        assert response <= 160


def test_pieces_end_where_tokens_do(skilled: PreTrainedTokenizerFast) -> None:
    chat = chat_of(skilled)
    for example in islice(generate_examples("train", seed=4), 1000):
        for shown in (example.right, example.wrong):
            ids = [n for piece in shown.pieces for n in chat.response_ids(piece.text)]
            assert tuple(ids) == chat.response_ids(shown.text), shown.text


# What is shown.


@pytest.mark.parametrize(
    ("num_cuts", "digest"),
    [
        (0, "3396fb688c82a6ca28128c9a53eaecd9ded567a6dc91f484d70d43311d32935b"),
        (3, "5f5f96f3f8c61a0b9e463e8aa2448172d0d8f7abdb73bdb31c5c0e01136bc4bc"),
    ],
)
def test_without_skills_nothing_has_changed(
    plain: PreTrainedTokenizerFast, num_cuts: int, digest: str
) -> None:
    items = list(islice(demonstrations(plain, num_cuts=num_cuts), 64))
    assert hashlib.sha256(repr(items).encode()).hexdigest() == digest


def test_the_share_of_skills_is_what_was_asked_for(skilled: PreTrainedTokenizerFast) -> None:
    solves = skilled("####", add_special_tokens=False)["input_ids"][0]
    items = list(islice(demonstrations(skilled, num_cuts=2, share=0.75), 800))
    puzzles = sum(solves in item[0].response_ids for item in items) / len(items)
    assert 0.2 < puzzles < 0.34  # a few skills have puzzles too


@pytest.mark.parametrize("num_cuts", [0, 3])
def test_rows_of_skills_learn_of_responses_alone(
    skilled: PreTrainedTokenizerFast, num_cuts: int
) -> None:
    data = demonstrations(skilled, num_cuts=num_cuts, share=1.0)
    for item in islice(data, 200):
        assert len(item) == 2
        assert (item[0].prompt_ids == item[1].prompt_ids) or num_cuts == 0
        for row in item:
            assert row.response_ids[-1] == skilled.eos_token_id
            assert set(row.untrained) <= set(range(len(row.response_ids) - 1))
            assert all(1 <= cut.num_tokens < len(row.response_ids) for cut in row.cuts)
        if num_cuts:
            assert {c.prob_win_or_tie for row in item for c in row.cuts} == {0.0, 1.0}
        else:
            # Nothing is shown that teaches nothing.
            assert all(len(row.untrained) < len(row.response_ids) - 1 for row in item)


def test_batches_hold_rows_of_near_lengths(skilled: PreTrainedTokenizerFast) -> None:
    data, padded, real = iter(demonstrations(skilled, size=24, share=0.6)), 0, 0
    for _ in range(32):
        lengths = [row.num_tokens for item in islice(data, 12) for row in item]
        padded, real = padded + 24 * max(lengths), real + sum(lengths)
    assert real > 0.8 * padded


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [2, 3])
def test_processes_that_draw_together_draw_different_things(
    plain: PreTrainedTokenizerFast, num_workers: int
) -> None:
    def drawn() -> list[Item]:
        loader: DataLoader[Item] = DataLoader(
            demonstrations(plain), batch_size=4, num_workers=num_workers, collate_fn=list
        )
        return [item for batch in islice(loader, 4 * num_workers) for item in batch]

    items = drawn()
    assert items == drawn()
    assert len({repr(item) for item in items}) == len(items)
    alone = list(islice(demonstrations(plain), 16))
    assert [item for n in range(0, 16, 4) for item in items[n * num_workers :][:4]] == alone


@pytest.mark.parametrize(
    ("from_a_cue", "with_repeats", "num_shown"),
    [(False, False, (3, 24)), (True, False, (8, 60)), (True, True, (20, 200))],
)
def test_copies_say_random_tokens_again(
    skilled: PreTrainedTokenizerFast,
    from_a_cue: bool,
    with_repeats: bool,
    num_shown: tuple[int, int],
) -> None:
    def copies(seed: int) -> list[Item]:
        made = Copies(
            chat=chat_of(skilled),
            tokenizer=skilled,
            batch_size=8,
            num_shown=num_shown,
            seed=seed,
            from_a_cue=from_a_cue,
            with_repeats=with_repeats,
        )
        return list(islice(made, 40))

    items, special = copies(1), skilled.added_tokens_decoder
    assert items == copies(1) != copies(2)
    for start in range(0, len(items), 4):
        rows = [row for item in items[start : start + 4] for row in item]
        assert (
            len({(len(parts(row.prompt_ids, special)[0]), len(row.response_ids)) for row in rows})
            == 1
        )
        for row in rows:
            *said, end = row.response_ids
            shown, cue = parts(row.prompt_ids, special)
            assert num_shown[0] <= len(shown) <= num_shown[1]
            assert end == skilled.eos_token_id
            assert bool(cue) == from_a_cue
            assert with_repeats or len(set(shown)) == len(shown)
            whole = " ".join(map(str, ["", *shown, ""]))
            assert " ".join(map(str, ["", *cue, *said, ""])) in whole
            assert whole.count(" ".join(map(str, ["", *cue, ""]))) == 1 or not cue
            assert from_a_cue or said == shown


def parts(prompt_ids: Sequence[int], special: Container[int]) -> tuple[list[int], list[int]]:
    """Return what a prompt shows, and its cue: the turns of the user."""
    turns: list[list[int]] = [[]]
    for token in prompt_ids:
        if token not in special:
            turns[-1].append(token)
        elif turns[-1]:
            turns.append([])
    shown, cue, *_ = *turns, []
    return shown, cue


# A few steps.


def test_a_tiny_model_begins_to_learn(skilled: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    chat = chat_of(skilled)
    evaluator = SelfEvaluator(SelfEvalConfig(), chat)
    model = new_generator(
        GeneratorRecipe(num_layers=2, hidden_size=32, context_length=1024, lessons=()),
        skilled,
    )
    collator = RowCollator(
        question_ids=evaluator.question_ids, pad_id=int(skilled.pad_token_id), branches=True
    )
    weights = LossWeights(language_model=1.0, label=1.0)
    watched = collator(list(islice(demonstrations(skilled, num_cuts=3, share=0.6), 4)))
    before = loss_on(model, watched, weights, evaluator.label_ids)
    history = train_phase(
        model,
        demonstrations(skilled, num_cuts=3, size=8, share=0.6),
        Phase(
            folder=tmp_path,
            name="dry",
            batch_items=4,
            lr=0.02,
            adam_lr=0.003,
            weights=weights,
            label_ids=evaluator.label_ids,
            steps=30,
            warmup_steps=3,
        ),
        collator,
    )
    after = loss_on(model, watched, weights, evaluator.label_ids)
    logged = [line["loss"] for line in history if "loss" in line]
    assert logged
    assert all(torch.isfinite(torch.tensor(loss)) for loss in (before, *logged, after))
    assert after < before - 1.0


@torch.no_grad()
def loss_on(
    model: LlamaForCausalLM,
    batch: dict[str, torch.Tensor],
    weights: LossWeights,
    label_ids: tuple[int, int],
) -> float:
    losses = compute_losses(model, BranchBatch.of(batch), weights, label_ids=label_ids)
    return float(losses.total)
