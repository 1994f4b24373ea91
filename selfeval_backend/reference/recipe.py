"""The reference model, from nothing to the shipped folder.

``python -m selfeval_backend.reference.recipe`` trains the generator, which is this project's own
affair, and then its self-evaluation by the pipeline that users have (``aic train --config
reference``). A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from selfeval_backend.checkpoints import REFERENCE_FOLDER
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.pretrain import Demonstrations
from selfeval_backend.training.recipe import Recipe, load_recipe
from selfeval_backend.training.stages import make_pipeline
from selfeval_backend.training.tokenizer import build_tokenizer
from selfeval_backend.training.trainer import Phase, RowCollator, train_phase

__all__ = [
    "SIZES",
    "GeneratorRecipe",
    "main",
    "train_generator",
    "training_recipe",
    "with_skills",
]

_NOTES = """\
It shows this project's method for real on a machine without a GPU. It solves one kind of problem:
reach a target from two to four numbers by adding and taking away, all of them used once, and up to
three such puzzles after one another. It knows nothing else, and its figures say nothing of larger
models.

    Use 3, 19 and 25 to make 41, then 8 and 12 to make 20.

Trained from nothing by `make reference`. Puzzles are split by a hash of their numbers and target:
no puzzle of a test or calibration problem was ever trained on, in any wording, order or company."""

_SKILLS_NOTES = """\
It shows this project's method for real on a machine without a GPU. It solves number puzzles, up to
three after one another, and has a few skills beside them: to call tools, or none, with arguments
copied from the request; to tell what a tool answered; JSON; puzzles with a calculator; and to
answer from a given text in LlamaIndex's prompts. It knows nothing else, and its figures say nothing
of larger models.

Trained from nothing, on generated text alone, and split by a hash: no puzzle of a held-out problem,
nobody whom a held-out text is about, and no name of a held-out tool was ever trained on."""

_SMALLER_NOTES = """\
It knows what the reference model knows, and less well: it was made to see how the method fares with
a generator of less capability, with half of the reference model's training (`make sizes`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRecipe:
    """Every number of the reference generator; those of its self-evaluation are a recipe's."""

    seed: int = 0
    num_layers: int = 6
    hidden_size: int = 128
    head_size: int = 32
    context_length: int = 512
    plain_steps: int = 4000
    joint_steps: int = 1000
    joint_lr_scale: float = 0.5
    """Of the learning rates while contrast is learned; all of it undoes language modelling."""
    batch_size: int = 24
    joint_num_cuts: int = 3
    lr: float = 0.02
    adam_lr: float = 0.003
    skill_share: float = 0.0
    """Of the demonstrations; the others are puzzles. With any, the tokenizer has skills' words."""


SIZES: Mapping[str, GeneratorRecipe] = MappingProxyType(
    {
        "reference": GeneratorRecipe(),
        "medium": GeneratorRecipe(num_layers=5, hidden_size=96, plain_steps=2000, joint_steps=500),
        "small": GeneratorRecipe(num_layers=4, hidden_size=64, plain_steps=2000, joint_steps=500),
    }
)
"""The model that ships, and two of less capability: smaller, and trained half as long."""


def with_skills(recipe: GeneratorRecipe) -> GeneratorRecipe:
    """Return how the same generator is trained on skills too.

    The longest prompts of skills have some 700 tokens, and LlamaIndex packs what it found into
    what fits. Puzzles are still shown as often as without: the steps are so many more.
    """
    return replace(
        recipe,
        context_length=1024,
        skill_share=_SKILL_SHARE,
        plain_steps=round(recipe.plain_steps / (1 - _SKILL_SHARE)),
        joint_steps=round(recipe.joint_steps / (1 - _SKILL_SHARE)),
    )


_SKILL_SHARE = 0.6
_SPLITS = ("train", "validation", "calibration", "test")


def training_recipe(
    size: str, generator: Path, folder: Path, notes: str, *, skills: bool = False
) -> Recipe:
    """Return how a generator's self-evaluation is trained: the shipped recipe, or half of it.

    With skills half of the prompts are theirs, beside as many puzzles as before.
    """
    recipe = load_recipe("reference")
    body = recipe.model_dump(mode="json")
    body.update(model=str(generator), folder=str(folder))
    body["report"]["notes"] = notes
    if skills:
        source, task = body["prompts"]["source"], "selfeval_backend.reference.skill_task"
        counts = {name: 2 * source["arguments"][name] for name in _SPLITS}
        source.update(function=f"{task}:prompts", arguments={**source["arguments"], **counts})
        body["rewards"]["function"] = f"{task}:score"
        body["report"]["answer"] = f"{task}:answer_of_response"
        body["calibrate"].update(
            max_calibration_prompts=counts["calibration"], max_test_prompts=counts["test"]
        )
        for phase in ("contrast", "preferences"):
            body["finetune"][phase]["steps"] *= 2
    elif size != "reference":
        body["prompts"]["source"]["arguments"].update(train=800, test=300)
        body["calibrate"].update(max_test_prompts=300)
        for phase in ("contrast", "preferences"):
            body["finetune"][phase]["steps"] //= 2
    return Recipe.model_validate(body)


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
    """Train the generator: first language modelling alone, then contrast beside it.

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
    tokenizer = _tokenizer(recipe, folder / "tokenizer")
    chat = ChatTemplate(tokenizer, name="reference")
    evaluator = SelfEvaluator(SelfEvalConfig(), chat)
    model: Any = new_generator(recipe, tokenizer)
    phases = (
        # name, steps, scale of the learning rate and its decay, labelled cuts
        ("plain", recipe.plain_steps, 1.0, 0.6, 0),
        ("joint", recipe.joint_steps, recipe.joint_lr_scale, 0.7, recipe.joint_num_cuts),
    )
    if torch.cuda.is_available() or shutil.which("g++"):
        model.get_decoder().compile(dynamic=True)  # 8,400 against 7,400 tokens/s on two cores
    for place, (name, steps, lr_scale, decay_share, num_cuts) in enumerate(phases):
        train_phase(
            model,
            Demonstrations(
                chat=chat,
                end_id=int(tokenizer.eos_token_id),
                batch_size=recipe.batch_size,
                num_cuts=num_cuts,
                seed=recipe.seed + place,
                skill_share=recipe.skill_share,
            ),
            Phase(
                folder=folder,
                name=name,
                batch_items=recipe.batch_size // 2,
                lr=lr_scale * recipe.lr,
                adam_lr=lr_scale * recipe.adam_lr,
                weights=LossWeights(language_model=1.0, label=1.0 if num_cuts else 0.0),
                label_ids=evaluator.label_ids,
                steps=steps,
                decay_share=decay_share,
                save_steps=500,
                seed=recipe.seed,
            ),
            RowCollator(
                question_ids=evaluator.question_ids,
                pad_id=int(tokenizer.pad_token_id),
                branches=True,
            ),
            log=partial(_log_phase, log, name),
        )
    unfinished = folder / "generator.partial"
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(finished)
    return finished


def _log_phase(log: Callable[[str], None], phase: str, line: str) -> None:
    log(f"generator, {phase}: {line}")


def _tokenizer(recipe: GeneratorRecipe, path: Path) -> PreTrainedTokenizerFast:
    if not path.exists():
        tokenizer = build_tokenizer(seed=recipe.seed, with_skills=recipe.skill_share > 0)
        tokenizer.save_pretrained(path)
    saved = AutoTokenizer.from_pretrained(path)
    assert isinstance(saved, PreTrainedTokenizerFast), "that is what was saved"
    return saved


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=tuple(SIZES), default="reference")
    parser.add_argument("--skills", action="store_true", help="tools, JSON, answers from texts too")
    parser.add_argument("--folder", type=Path, help="default: build/ and the size, or build/skills")
    parser.add_argument("--until", choices=("generator", "report"), default="report")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    parser.add_argument("--notes", default="", help="for the model card")
    arguments = parser.parse_args()
    if arguments.install and arguments.size != "reference":
        parser.error("--install is for --size reference: that is the model that ships")
    if arguments.skills and arguments.size != "reference":
        parser.error("--skills is for --size reference: a smaller model has no room for them")
    folder = arguments.folder or Path("build") / ("skills" if arguments.skills else arguments.size)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    chosen = SIZES[arguments.size]
    chosen = with_skills(chosen) if arguments.skills else chosen
    generator = train_generator(chosen, folder, log)
    if arguments.until == "generator":
        return
    about = _NOTES if arguments.size == "reference" else _SMALLER_NOTES
    about = _SKILLS_NOTES if arguments.skills else about
    notes = "\n\n".join(part for part in (about, arguments.notes) if part)
    recipe = training_recipe(
        arguments.size, generator, folder / "training", notes, skills=arguments.skills
    )
    pipeline = make_pipeline(recipe, progress=lambda *_: None, log=log)
    finished = pipeline.run("report") / "model"
    if arguments.install:
        shutil.copytree(finished, REFERENCE_FOLDER, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
