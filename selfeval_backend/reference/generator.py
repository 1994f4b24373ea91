"""The reference generator: learned from demonstrations, puzzles first and then skills beside them.

Lessons follow one another, each from where the last one ended: language modelling of puzzles;
contrast beside it; and for a generator with skills, copying, the skills, and contrast of those.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.reference.skills import COPYING_MIX, SKILL_MIX, Skill
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.finetune import load_weights
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.pretrain import Demonstrations
from selfeval_backend.training.tokenizer import build_tokenizer
from selfeval_backend.training.trainer import Phase, RowCollator, train_phase

__all__ = [
    "SIZES",
    "SKILLS_CONTEXT",
    "SKILL_LESSONS",
    "GeneratorRecipe",
    "Lesson",
    "new_generator",
    "teach_skills",
    "train_generator",
    "with_room_for",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is learned for a while, and how."""

    name: str
    steps: int
    lr_scale: float = 1.0
    """Of the recipe's learning rates."""
    decay_share: float = 0.6
    """Of the steps: they are falling to zero."""
    num_cuts: int = 0
    """Labelled cuts of each response, for contrast; 0: language modelling alone."""
    skill_share: float = 0.0
    """Of the demonstrations; the others are puzzles."""
    skill_mix: Mapping[Skill, int] = field(default_factory=lambda: SKILL_MIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRecipe:
    """Every number of the reference generator; those of its self-evaluation are a recipe's."""

    seed: int = 0
    num_layers: int = 6
    hidden_size: int = 128
    head_size: int = 32
    context_length: int = 512
    batch_size: int = 24
    lr: float = 0.02
    adam_lr: float = 0.003
    lessons: tuple[Lesson, ...] = (
        Lesson(name="plain", steps=4000),
        # Half of the learning rates: all of them undo language modelling.
        Lesson(name="joint", steps=1000, lr_scale=0.5, decay_share=0.7, num_cuts=3),
    )


_HALF = tuple(replace(lesson, steps=lesson.steps // 2) for lesson in GeneratorRecipe().lessons)

SIZES: Mapping[str, GeneratorRecipe] = MappingProxyType(
    {
        "reference": GeneratorRecipe(),
        "medium": GeneratorRecipe(num_layers=5, hidden_size=96, lessons=_HALF),
        "small": GeneratorRecipe(num_layers=4, hidden_size=64, lessons=_HALF),
    }
)
"""The model that ships, and two of less capability: smaller, and trained half as long."""

SKILL_LESSONS = (
    Lesson(name="copying", steps=700, decay_share=0.0, skill_share=0.9, skill_mix=COPYING_MIX),
    Lesson(name="skills", steps=3600, decay_share=0.6, skill_share=0.75),
    Lesson(name="contrast", steps=700, lr_scale=0.5, decay_share=0.7, num_cuts=3, skill_share=0.7),
)
"""Each response of a skill has a quarter of the tokens of a puzzle's: hence the share."""

SKILLS_CONTEXT = 1024
"""Tokens: the longest prompts of skills have some 700, and LlamaIndex packs what it found into
what fits."""


def new_generator(recipe: GeneratorRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained generator."""
    torch.manual_seed(recipe.seed)
    heads = recipe.hidden_size // recipe.head_size
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=3 * recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=recipe.context_length,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    build: Callable[[LlamaConfig], LlamaForCausalLM] = LlamaForCausalLM
    model = build(config)  # typed or not, as the version of transformers has it
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # of transformers
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    return model


def train_generator(recipe: GeneratorRecipe, folder: Path, log: Callable[[str], None]) -> Path:
    """Train a generator of puzzles from nothing.

    Args:
        recipe: How.
        folder: To work in.
        log: Told of progress.

    Returns:
        The checkpoint folder.
    """
    finished = folder / "generator"
    if finished.exists():
        log("generator: done before")
        return finished
    tokenizer = _tokenizer(recipe, folder / "tokenizer", with_skills=False)
    _teach(new_generator(recipe, tokenizer), tokenizer, recipe, recipe.lessons, folder, log)
    return finished


def teach_skills(
    recipe: GeneratorRecipe,
    generator: Path,
    folder: Path,
    log: Callable[[str], None],
    lessons: Sequence[Lesson] = SKILL_LESSONS,
) -> Path:
    """Teach a generator of puzzles the skills beside them.

    Args:
        recipe: How the generator was trained.
        generator: Its checkpoint folder.
        folder: To work in.
        log: Told of progress.
        lessons: What is learned.

    Returns:
        The checkpoint folder.
    """
    finished = folder / "generator"
    if finished.exists():
        log("skills: done before")
        return finished
    before = AutoTokenizer.from_pretrained(generator)
    tokenizer = _tokenizer(recipe, folder / "tokenizer", with_skills=True)
    torch.manual_seed(recipe.seed)
    model = with_room_for(load_weights(generator, dtype=torch.float32), before, tokenizer)
    _teach(model, tokenizer, recipe, lessons, folder, log)
    return finished


def with_room_for(
    model: Any, before: PreTrainedTokenizerFast, after: PreTrainedTokenizerFast
) -> Any:
    """Return a model with a longer context and with rows for the tokens that came behind its own.

    A new token begins as the mean of the old ones that its text had, and a little beside it.
    """
    known = len(before)
    model.config.max_position_embeddings = SKILLS_CONTEXT
    model.resize_token_embeddings(len(after), mean_resizing=False)
    rows = model.get_input_embeddings().weight.data
    noise = 0.3 * rows[:known].std()
    body = after.backend_tokenizer
    for token_id in range(known, len(after)):
        parts = _parts(body.id_to_token(token_id), before)
        rows[token_id] = rows[parts].mean(dim=0) + noise * torch.randn(rows.shape[1])
    return model


def _parts(token: str, before: PreTrainedTokenizerFast) -> list[int]:
    """Return the tokens that a token's bytes had, by the merges of before."""
    return [piece.id for piece in before.backend_tokenizer.model.tokenize(token)]


def _teach(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    recipe: GeneratorRecipe,
    lessons: Sequence[Lesson],
    folder: Path,
    log: Callable[[str], None],
) -> None:
    """Take a model through lessons, and save it as the generator of a folder."""
    chat = ChatTemplate(tokenizer, name="reference")
    evaluator = SelfEvaluator(SelfEvalConfig(), chat)
    collator = RowCollator(
        question_ids=evaluator.question_ids, pad_id=int(tokenizer.pad_token_id), branches=True
    )
    if torch.cuda.is_available() or shutil.which("g++"):
        model.get_decoder().compile(dynamic=True)  # 11,200 against 9,100 tokens/s on two cores
    for place, lesson in enumerate(lessons):
        train_phase(
            model,
            Demonstrations(
                chat=chat,
                end_id=int(tokenizer.eos_token_id),
                batch_size=recipe.batch_size,
                num_cuts=lesson.num_cuts,
                seed=recipe.seed + place,
                skill_share=lesson.skill_share,
                skill_mix=lesson.skill_mix,
            ),
            Phase(
                folder=folder,
                name=lesson.name,
                batch_items=recipe.batch_size // 2,
                lr=lesson.lr_scale * recipe.lr,
                adam_lr=lesson.lr_scale * recipe.adam_lr,
                weights=LossWeights(language_model=1.0, label=1.0 if lesson.num_cuts else 0.0),
                label_ids=evaluator.label_ids,
                steps=lesson.steps,
                decay_share=lesson.decay_share,
                save_steps=500,
                seed=recipe.seed,
            ),
            collator,
            log=partial(_log_lesson, log, lesson.name),
        )
    unfinished = folder / "generator.partial"
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder / "generator")


def _log_lesson(log: Callable[[str], None], lesson: str, line: str) -> None:
    log(f"generator, {lesson}: {line}")


def _tokenizer(
    recipe: GeneratorRecipe, path: Path, *, with_skills: bool
) -> PreTrainedTokenizerFast:
    if not path.exists():
        build_tokenizer(seed=recipe.seed, with_skills=with_skills).save_pretrained(path)
    saved = AutoTokenizer.from_pretrained(path)
    assert isinstance(saved, PreTrainedTokenizerFast), "that is what was saved"
    return saved
