"""The generators of the reference model and its smaller relatives: taught by generated texts.

Lessons follow one another, each from where the last one ended. Puzzles: language modelling, then
contrast beside it. Where there are skills, copying comes first, while the model is new (one that
has learned puzzles did not find it in the time that a new one needs): by places, then from a cue,
then from several tokens, then in words; and then puzzles and skills together. What each lesson is
for stands in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from reference_model.pretraining_data import Copies, Demonstrations
from reference_model.skills import SKILL_MIX, Skill
from reference_model.tokenizer import build_tokenizer
from selfeval_backend.chat import ChatTemplate
from selfeval_backend.evaluation.markdown import markdown_table
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.trainer import Item, Phase, RowCollator, train_phase

__all__ = [
    "SIZES",
    "GeneratorRecipe",
    "Lesson",
    "new_generator",
    "train_generator",
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
    random_tokens: Literal["again", "from a cue"] | None = None
    """Nothing but random tokens is shown: see `Copies`."""
    num_random: tuple[int, int] = (3, 24)
    """Random tokens of a prompt, the fewest and the most."""
    with_repeats: bool = False
    """Whether some of them are the same."""
    batch_size: int | None = None
    """Responses of a step; None: the recipe's."""
    data_workers: int = 0
    """Processes that draw what is shown; what it is depends on how many they are."""


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
    has_skills: bool = False
    """Whether its tokenizer has the skills' words."""
    lessons: tuple[Lesson, ...]


_PUZZLES = (
    Lesson(name="plain", steps=2000),
    # Half of the learning rates: all of them undo language modelling.
    Lesson(name="joint", steps=500, lr_scale=0.5, decay_share=0.7, num_cuts=3),
)
_SPELLING = Lesson(
    name="spelling",
    steps=1000,
    decay_share=0.0,
    random_tokens="from a cue",
    num_random=(20, 200),
    with_repeats=True,
)
_LONG_MIX: Mapping[Skill, int] = MappingProxyType(
    {"call": 32, "talk": 10, "result": 8, "json": 10, "calculator": 20, "context": 32, "notes": 8}
)
"""Twice as much of the calculator and of notes as elsewhere."""
_PUZZLES_AND_SKILLS = (
    Lesson(name="copying", steps=1500, decay_share=0.0, random_tokens="again"),
    Lesson(
        name="recall",
        steps=3000,
        decay_share=0.0,
        random_tokens="from a cue",
        num_random=(8, 60),
    ),
    _SPELLING,
    Lesson(name="notes", steps=600, decay_share=0.0, skill_share=1.0, skill_mix={"notes": 1}),
    Lesson(name="mixture", steps=2000, decay_share=0.0, skill_share=0.4),
    replace(_SPELLING, name="spelling-again", steps=800),
    Lesson(name="plain", steps=8000, decay_share=0.625, skill_share=0.4),
    Lesson(
        name="joint",
        steps=1000,
        lr_scale=0.5,
        decay_share=0.7,
        num_cuts=3,
        skill_share=0.4,
    ),
    # A million responses: minutes on a GPU; six to eighteen hours on two CPUs, at what the lessons
    # before did there (16 to 45 responses a second).
    replace(
        _SPELLING, name="spelling-long", steps=400, lr_scale=0.75, batch_size=192, data_workers=14
    ),
    Lesson(
        name="long",
        steps=5000,
        lr_scale=0.75,
        decay_share=0.8,
        num_cuts=3,
        skill_share=0.6,
        skill_mix=_LONG_MIX,
        batch_size=192,
        data_workers=14,
    ),
)

SIZES: Mapping[str, GeneratorRecipe] = MappingProxyType(
    {
        "reference": GeneratorRecipe(
            context_length=1024,  # prompts of skills have up to 700 tokens
            has_skills=True,
            lessons=_PUZZLES_AND_SKILLS,
        ),
        "medium": GeneratorRecipe(num_layers=5, hidden_size=96, lessons=_PUZZLES),
        "small": GeneratorRecipe(num_layers=4, hidden_size=64, lessons=_PUZZLES),
    }
)
"""The model that ships, and two of less capability: smaller, and taught puzzles alone."""


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
    """Train a generator from nothing.

    Args:
        recipe: How.
        folder: To work in.
        log: Told of progress.

    Returns:
        The model folder.
    """
    finished = folder / "generator"
    if finished.exists():
        log("generator: done before")
        return finished
    tokenizer = _tokenizer(recipe, folder / "tokenizer")
    _teach(new_generator(recipe, tokenizer), tokenizer, recipe, recipe.lessons, folder, log)
    return finished


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
    for place, lesson in enumerate(lessons):
        batch_size = lesson.batch_size or recipe.batch_size
        train_phase(
            model,
            _shown(lesson, chat, tokenizer, batch_size, seed=recipe.seed + place),
            Phase(
                folder=folder,
                name=lesson.name,
                batch_items=batch_size // 2,
                lr=lesson.lr_scale * recipe.lr,
                adam_lr=lesson.lr_scale * recipe.adam_lr,
                weights=LossWeights(language_model=1.0, label=1.0 if lesson.num_cuts else 0.0),
                label_ids=evaluator.label_ids,
                steps=lesson.steps,
                decay_share=lesson.decay_share,
                save_steps=500,
                data_workers=lesson.data_workers,
                seed=recipe.seed,
            ),
            collator,
            log=partial(_log_lesson, log, lesson.name),
        )
    unfinished = folder / "generator.partial"
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / "README.md").write_text(_card(recipe, model.num_parameters()), encoding="utf-8")
    unfinished.rename(folder / "generator")


def _card(recipe: GeneratorRecipe, num_parameters: int) -> str:
    lessons = markdown_table(
        ("lesson", "steps", "responses each", "shown", "learning rate", "falls over"),
        (
            (
                lesson.name,
                f"{lesson.steps:,}",
                str(lesson.batch_size or recipe.batch_size),
                _told(lesson),
                f"{lesson.lr_scale * recipe.lr:g}",
                f"{lesson.decay_share:.0%}",
            )
            for lesson in recipe.lessons
        ),
    )
    return _CARD.format(parameters=num_parameters, recipe=recipe, lessons=lessons)


def _told(lesson: Lesson) -> str:
    """Say what a lesson shows."""
    if lesson.random_tokens:
        low, high = lesson.num_random
        repeats = ", with repeats" if lesson.with_repeats else ""
        return f"{low} to {high} random tokens, {lesson.random_tokens}{repeats}"
    cuts = f", {lesson.num_cuts} labelled cuts each" if lesson.num_cuts else ""
    skills = f"skills ({', '.join(lesson.skill_mix)})"
    if lesson.skill_share in (0, 1):
        return (skills if lesson.skill_share else "puzzles") + cuts
    return f"puzzles, and {lesson.skill_share:.0%} {skills}{cuts}"


_CARD = """\
---
license: apache-2.0
---
# A generator of the reference domain

{parameters:,} parameters (Llama architecture, {recipe.num_layers} layers of
{recipe.hidden_size}, float32), from nothing by
`python -m reference_model --until generator`: seed {recipe.seed}, Muon. It was shown contrast on
demonstrations, and has never judged a sample of its own: that is what `aic train` teaches it.

{lessons}"""


def _shown(
    lesson: Lesson,
    chat: ChatTemplate,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    *,
    seed: int,
) -> IterableDataset[Item]:
    """Return what a lesson shows."""
    if lesson.random_tokens:
        return Copies(
            chat=chat,
            tokenizer=tokenizer,
            batch_size=batch_size,
            num_shown=lesson.num_random,
            from_a_cue=lesson.random_tokens == "from a cue",
            with_repeats=lesson.with_repeats,
            seed=seed,
        )
    return Demonstrations(
        chat=chat,
        end_id=int(tokenizer.eos_token_id),
        batch_size=batch_size,
        num_cuts=lesson.num_cuts,
        seed=seed,
        skill_share=lesson.skill_share,
        skill_mix=lesson.skill_mix,
    )


def _log_lesson(log: Callable[[str], None], lesson: str, line: str) -> None:
    log(f"generator, {lesson}: {line}")


def _tokenizer(recipe: GeneratorRecipe, path: Path) -> PreTrainedTokenizerFast:
    if not path.exists():
        build_tokenizer(seed=recipe.seed, with_skills=recipe.has_skills).save_pretrained(path)
    saved = AutoTokenizer.from_pretrained(path)
    assert isinstance(saved, PreTrainedTokenizerFast), "that is what was saved"
    return saved
