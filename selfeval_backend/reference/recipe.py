"""The recipe of the reference model, from nothing to the shipped folder.

``python -m selfeval_backend.reference.recipe`` runs every stage that is not done yet and goes on
where a stopped one was::

    generator    tokenizer; language modelling on demonstrations, then with contrast beside it
    rollouts     on-policy samples of training and calibration problems, with rewards
    contrast     a right and a wrong sample of one prompt side by side
    preferences  every sample, whole and cut, with its win-or-tie target: the method
    blended      between the generator's weights and these: the generator is preserved
    calibrate    probabilities by position, on the calibration problems
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.checkpoints import REFERENCE_FOLDER
from selfeval_backend.engine.transformers import TransformersEngine
from selfeval_backend.evaluation.quality import predictions, running_at, whole
from selfeval_backend.evaluation.tuning import only_on_policy, tune_policy
from selfeval_backend.policy import Annealed
from selfeval_backend.reference.card import draw_reliability, write_card
from selfeval_backend.reference.figures import (
    measure_generator,
    measure_policies,
    measure_self_evaluation,
)
from selfeval_backend.reference.problems import Split, generate_problems
from selfeval_backend.rollouts import Rollout, load_rollouts, save_rollouts
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import resolve_settings
from selfeval_backend.training.blending import blend
from selfeval_backend.training.calibrate import fit_calibration
from selfeval_backend.training.preferences import ContrastBatches, PreferenceBatches
from selfeval_backend.training.pretrain import Demonstrations
from selfeval_backend.training.rollouts import sample_rollouts, score_prefixes
from selfeval_backend.training.steps import LossWeights, train
from selfeval_backend.training.tokenizer import build_tokenizer

__all__ = ["Recipe", "main"]

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number of the reference model."""

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
    num_cuts: int = 6
    lr: float = 0.02
    adam_lr: float = 0.003
    rollout_prompts: int = 1600
    rollout_samples: int = 8
    max_tokens: int = 192
    contrast_steps: int = 500
    preference_steps: int = 500
    finetune_batch_size: int = 32
    finetune_lr: float = 0.004
    finetune_adam_lr: float = 0.0006
    kl_weight: float = 1.0
    blend: float = 0.7
    """Share of the way from the generator's weights to the fine-tuned ones that is gone."""
    calibration_prompts: int = 200
    test_prompts: int = 500
    num_samples: int = 16
    positions: tuple[int, ...] = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96)
    prune_at_candidates: tuple[tuple[int, ...], ...] = (
        (40,),
        (48,),
        (32, 48),
        (40, 64),
        (48, 64),
        (40, 48, 64),
    )
    keep_improvement: float = 0.975
    measured_prune_at: tuple[int, ...] = (40, 64)
    """What is measured where tuning chose no pruning."""
    measured_keep_fraction: tuple[float, ...] = (0.75, 0.25)


class _Workshop:
    """One folder in which the recipe works."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()

    def log(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:6.0f} s  {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def tokenizer(self) -> PreTrainedTokenizerFast:
        path = self.folder / "tokenizer"
        if not path.exists():
            build_tokenizer(seed=self.recipe.seed).save_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert isinstance(tokenizer, PreTrainedTokenizerFast), "that is what was saved"
        return tokenizer

    def chat(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer(), name="reference")

    def question(self) -> dict[str, Any]:
        """What every kind of batch and loss needs to know of the self-evaluation."""
        tokenizer = self.tokenizer()
        return {
            "question_ids": SelfEvaluator(SelfEvalConfig(), self.chat()).question_ids,
            "end_id": tokenizer.eos_token_id,
            "pad_id": tokenizer.pad_token_id,
        }

    def label_ids(self) -> tuple[int, int]:
        return SelfEvaluator(SelfEvalConfig(), self.chat()).label_ids

    def model(self, stage: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder / stage, dtype=torch.float32)

    def save(self, model: Any, stage: str) -> None:
        partial = self.folder / f"{stage}.partial"
        model.save_pretrained(partial)
        partial.rename(self.folder / stage)

    def is_done(self, stage: str) -> bool:
        done = (self.folder / stage).exists()
        if done:
            self.log(f"{stage}: done before")
        return done


def new_generator(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
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


def train_generator(shop: _Workshop) -> None:
    """Stage `generator`: first language modelling alone, then contrast beside it."""
    if shop.is_done("generator"):
        return
    recipe = shop.recipe
    model = new_generator(recipe, shop.tokenizer())
    phases = (
        # name, steps, scale of the learning rate and its decay, labelled cuts
        ("plain", recipe.plain_steps, 1.0, 0.6, 0),
        ("joint", recipe.joint_steps, recipe.joint_lr_scale, 0.7, recipe.joint_num_cuts),
    )
    for place, (name, steps, lr_scale, decay_fraction, num_cuts) in enumerate(phases):
        demonstrations = Demonstrations(
            chat=shop.chat(),
            batch_size=recipe.batch_size,
            num_cuts=num_cuts,
            seed=recipe.seed + place,
            **shop.question(),
        )
        shop.log(f"generator, phase {name}: {steps} steps")
        train(
            model,
            iter(demonstrations),
            steps=steps,
            weights=LossWeights(language_model=1.0, label=1.0 if num_cuts else 0.0),
            label_ids=shop.label_ids(),
            lr=lr_scale * recipe.lr,
            adam_lr=lr_scale * recipe.adam_lr,
            log=shop.log,
            checkpoint=shop.folder / f"{name}.pt",
            decay_fraction=decay_fraction,
        )
    shop.save(model, "generator")


def roll_out(
    shop: _Workshop, name: str, *, stage: str, split: Split, prompts: int, temperatures: list[float]
) -> list[Rollout]:
    """Sample problems of a split with the model of a stage, once."""
    path = shop.folder / f"{name}.jsonl"
    if not path.exists():
        shop.log(f"rollouts {name}: {prompts} prompts x {len(temperatures)}")
        engine = TransformersEngine(shop.model(stage))
        problems = islice(generate_problems(split, seed=shop.recipe.seed), prompts)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # its matrices are so small that a second thread makes it slower
        rollouts = asyncio.run(
            sample_rollouts(
                problems,
                engine=engine,
                chat=shop.chat(),
                temperatures=temperatures,
                max_tokens=shop.recipe.max_tokens,
                seed=shop.recipe.seed,
                log=shop.log,
            )
        )
        torch.set_num_threads(num_threads)
        save_rollouts(path, rollouts)
    return load_rollouts(path)


def finetune(shop: _Workshop, rollouts: list[Rollout]) -> None:
    """Stages `contrast` and `preferences`: the self-evaluation, with the generator preserved."""
    recipe = shop.recipe
    reference = shop.model("generator").eval().requires_grad_(False)
    for start, stage, kind, steps in (
        ("generator", "contrast", ContrastBatches, recipe.contrast_steps),
        ("contrast", "preferences", PreferenceBatches, recipe.preference_steps),
    ):
        if shop.is_done(stage):
            continue
        shop.log(f"{stage}: {steps} steps")
        model = shop.model(start)
        train(
            model,
            iter(
                kind(
                    rollouts=rollouts,
                    batch_size=recipe.finetune_batch_size,
                    num_cuts=recipe.num_cuts,
                    seed=recipe.seed,
                    **shop.question(),
                )
            ),
            steps=steps,
            weights=LossWeights(label=1.0, kl=recipe.kl_weight),
            label_ids=shop.label_ids(),
            lr=recipe.finetune_lr,
            adam_lr=recipe.finetune_adam_lr,
            log=shop.log,
            checkpoint=shop.folder / f"{stage}.pt",
            reference=reference,
        )
        shop.save(model, stage)


def blend_weights(shop: _Workshop) -> None:
    """Stage `blended`: go back some of the way to the generator."""
    if shop.is_done("blended"):
        return
    model = shop.model("preferences")
    blend(model, shop.model("generator").state_dict(), share=shop.recipe.blend)
    shop.save(model, "blended")


def calibrate(shop: _Workshop) -> tuple[Path, list[Rollout]]:
    """Stage `calibrate`: the folder to ship, with probabilities that mean what they say."""
    recipe = shop.recipe
    folder = shop.folder / "model"
    rollouts = scored_rollouts(shop, "calibration", "calibration", recipe.calibration_prompts)
    if not shop.is_done("model"):
        partial = shop.folder / "model.partial"
        shop.model("blended").save_pretrained(partial)
        shop.tokenizer().save_pretrained(partial)
        evaluator = SelfEvaluator(SelfEvalConfig(), shop.chat())
        calibration = fit_calibration(rollouts, evaluator, recipe.positions)
        config = SelfEvalConfig(calibration=calibration)
        tuned = tune_policy(
            rollouts,
            SelfEvaluator(config, shop.chat()),
            prune_at=recipe.prune_at_candidates,
            max_samples=recipe.num_samples,
            keep_improvement=recipe.keep_improvement,
            log=shop.log,
        )
        policy = {**asdict(tuned), "max_samples": recipe.num_samples}
        provenance = {"recipe": "selfeval_backend.reference.recipe", "seed": recipe.seed}
        config = SelfEvalConfig(calibration=calibration, policy=policy, provenance=provenance)
        config.save(partial)
        partial.rename(folder)
    return folder, rollouts


def scored_rollouts(shop: _Workshop, name: str, split: Split, prompts: int) -> list[Rollout]:
    """Sample a held-out split, annealed and at temperature 1, and ask the self-evaluation."""
    recipe = shop.recipe
    path = shop.folder / f"{name}-scored.jsonl"
    if not path.exists():
        n = recipe.num_samples
        schedule = Annealed(1.0)
        temperatures = [schedule.temperature(k) for k in range(n)] + [1.0] * n
        rollouts = roll_out(
            shop, name, stage="blended", split=split, prompts=prompts, temperatures=temperatures
        )
        question = shop.question()
        rollouts = score_prefixes(
            rollouts,
            shop.model("blended").eval(),
            cuts=lambda s: [
                *(n for n in recipe.positions if n < len(s.token_ids)),
                len(s.token_ids) // 2,
            ],
            question_ids=question["question_ids"],
            label_ids=shop.label_ids(),
            pad_id=question["pad_id"],
        )
        save_rollouts(path, rollouts)
    return load_rollouts(path)


def report(shop: _Workshop, folder: Path, notes: str) -> None:
    """Measure on the test problems, and write figures, diagram and card into the folder."""
    recipe = shop.recipe
    config = SelfEvalConfig.load(folder)
    assert config is not None, "the stage before wrote it"
    chat = shop.chat()
    evaluator = SelfEvaluator(config, chat)
    rollouts = scored_rollouts(shop, "test", "test", recipe.test_prompts)
    before = roll_out(
        shop,
        "test-before",
        stage="generator",
        split="test",
        prompts=recipe.test_prompts,
        temperatures=[1.0] * recipe.num_samples,
    )
    shop.log("figures")
    measured = resolve_settings({}, config.policy)
    if not measured.prune_at:
        measured = replace(
            measured,
            prune_at=recipe.measured_prune_at,
            keep_fraction=recipe.measured_keep_fraction,
        )
    figures = {
        "before": measure_generator(before),
        "after": measure_generator(only_on_policy(rollouts)),
        "policies": measure_policies(rollouts, evaluator, chat, measured, seed=recipe.seed),
        "self_evaluation": measure_self_evaluation(
            rollouts, evaluator, recipe.positions, seed=recipe.seed
        ),
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    on_policy = only_on_policy(rollouts)
    curves = {"end": predictions(on_policy, evaluator, whole)}
    for at in measured.prune_at:
        curves[f"{at} tokens"] = predictions(on_policy, evaluator, running_at(at))
    draw_reliability(folder / "reliability.png", curves)
    facts = {
        "threshold": measured.threshold,
        "prune_at": measured.prune_at,
        "keep_fraction": measured.keep_fraction,
        "tuned": config.policy,
        "notes": notes,
        "num_parameters": sum(p.numel() for p in shop.model("blended").parameters()),
        "commit": _commit(),
        "device": "a GPU" if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores",
    }
    write_card(folder / "README.md", figures=figures, recipe=asdict(recipe), facts=facts)


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("build/reference"))
    parser.add_argument("--until", choices=("generator", "preferences", "report"), default="report")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    parser.add_argument("--notes", default="", help="for the model card")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    shop = _Workshop(Recipe(), arguments.folder)
    shop.log(str(asdict(shop.recipe)))
    train_generator(shop)
    if arguments.until == "generator":
        return
    rollouts = roll_out(
        shop,
        "train",
        stage="generator",
        split="train",
        prompts=shop.recipe.rollout_prompts,
        temperatures=[1.0] * shop.recipe.rollout_samples,
    )
    finetune(shop, rollouts)
    if arguments.until == "preferences":
        return
    blend_weights(shop)
    folder, _ = calibrate(shop)
    report(shop, folder, arguments.notes)
    if arguments.install:
        shutil.copytree(folder, REFERENCE_FOLDER, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
