"""Fine-tuning: cross-entropy on the label token, and the generator preserved.

Source: arXiv 2410.02725, section 3. Ours: contrast first (a small model otherwise learns how hard
a prompt is and nothing about the answer), several cuts in one pass, the KL term, the blend.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from selfeval_backend.errors import ConfigurationError, DatasetError, ModelFilesError
from selfeval_backend.evaluation.quality import Prediction, pair_accuracy
from selfeval_backend.files import one_line, write_atomically, writing
from selfeval_backend.hashing import Hasher
from selfeval_backend.samples.shards import count_rows, shards_of
from selfeval_backend.training.base_model import (
    base_folder,
    load_asking,
    model_inputs,
)
from selfeval_backend.training.blending import blend
from selfeval_backend.training.branches import takes_branches
from selfeval_backend.training.examples import StoredExamples, half_and_whole
from selfeval_backend.training.losses import LossWeights
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.preferences import holds_cut_off
from selfeval_backend.training.recipe import FinetuneSettings, LoraSettings, PhaseSettings, Recipe
from selfeval_backend.training.trainer import Phase, RowCollator, train_phase

__all__ = ["FinetuneStage", "load_weights", "pad_id_of"]

_GIB = 1 << 30
_SPLITTING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
"""Set by `accelerate launch` where weights are split; refused, for that has not been tried."""


def load_weights(folder: Path, *, dtype: torch.dtype | None = None) -> Any:
    """Load a causal language model, onto the GPU where there is one.

    Args:
        folder: Of the model.
        dtype: None: the model's on a GPU, float32 on a CPU.

    Raises:
        ModelFilesError: It cannot be loaded.
    """
    stored = "auto" if torch.cuda.is_available() else torch.float32
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or stored)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFilesError(f"{folder} cannot be loaded: {error}") from error
    return model.to(_device())


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def pad_id_of(folder: Path) -> int:
    """Return what a model's batches are padded with: it is masked, so any token does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id or 0) if pad is None else int(pad)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """Figures of the validation examples, while training runs."""

    keys: Sequence[str]
    rewards: Sequence[float]

    def __call__(self, outputs: Any) -> dict[str, float]:
        """Return within-prompt pair accuracy, whole and cut at half; ties of scores count half."""
        logits, targets = np.asarray(outputs.predictions), np.asarray(outputs.label_ids)
        if logits.shape[1] == 1:  # one sequence a cut: half and whole take turns
            logits, targets = logits.reshape(-1, 2), targets.reshape(-1, 2)
        prompts = {key: place for place, key in enumerate(dict.fromkeys(self.keys))}
        figures = {}
        for column, name in enumerate(("half", "whole")):
            items = [
                Prediction(
                    prompt=prompts[key],
                    logit=float(logit),
                    prob_win_or_tie=float(1 / (1 + np.exp(-logit))),
                    target=float(target),
                    reward=reward,
                )
                for key, reward, logit, target in zip(
                    self.keys, self.rewards, logits[:, column], targets[:, column], strict=True
                )
                if not np.isnan(logit)
            ]
            figures[f"pair_accuracy_{name}"] = pair_accuracy(items)
        return figures


class FinetuneStage:
    """Trains the self-evaluation, and writes a model folder."""

    name = "finetune"
    needs = ("preferences",)

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the model and how it is trained."""
        settings = recipe.finetune.model_dump(mode="json", exclude={"save_steps"})
        return {**model_inputs(recipe, hasher), "finetune": settings, "seed": recipe.seed}

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say how many steps, and how much memory the weights need."""
        settings = recipe.finetune
        lines = [_memory(recipe)]
        if "preferences" in upstream:
            rows = count_rows(shards_of(upstream["preferences"] / "train"))
            per_step = settings.batch_size * settings.gradient_accumulation
            planned = settings.preferences
            steps = planned.steps or int(planned.epochs * rows / per_step)
            lines.append(f"{rows:,} examples; about {steps:,} steps of {per_step} a device")
        return lines

    def run(self, place: Workplace) -> dict[str, Any]:
        """Train every phase, blend, and export.

        Raises:
            ConfigurationError: The launcher is set to split the weights over its processes.
        """
        _refuse_split_weights()
        return _Training(place).run()


def _refuse_split_weights() -> None:
    """DDP keeps whole weights in every process; what FSDP or ZeRO leave of them is not exported."""
    for variable in _SPLITTING:
        if os.environ.get(variable, "false").lower() in {"true", "1"}:
            raise ConfigurationError(
                variable,
                os.environ[variable],
                "false: every process needs the whole weights",
                remedy="Launch with --multi_gpu (DDP); for a large model, set finetune.lora.",
            )


def _memory(recipe: Recipe) -> str:
    """Estimate what weights, gradients and optimizer take; activations come on top."""
    config = AutoConfig.from_pretrained(base_folder(recipe, with_weights=False))
    with torch.device("meta"):
        build: Any = AutoModelForCausalLM
        model = build.from_config(config)
    count = sum(p.numel() for p in model.parameters())
    settings = recipe.finetune
    if settings.lora is not None:
        needed = count * (2 if torch.cuda.is_available() else 4)
    else:
        needed = count * (16 + 4 * bool(settings.kl_weight))
    if torch.cuda.is_available():
        there = torch.cuda.get_device_properties(_device()).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    line = (
        f"{count:,} parameters: {needed / _GIB:.1f} GiB for weights, gradients and optimizer, "
        f"of {there / _GIB:.0f} GiB"
    )
    return line + (" (they do not fit)" if needed > there else "")


class _Training:
    """One run of the stage."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._settings: FinetuneSettings = place.recipe.finetune
        self._base = base_folder(place.recipe)
        self._asking = load_asking(place.recipe)
        self._examples = place.upstream["preferences"]
        self._history: dict[str, list[dict[str, float]]] = {}

    def run(self) -> dict[str, Any]:
        """Return figures; the model folder is `model`."""
        validation = self._validation()
        model = self._load()
        branches = self._settings.branches == "auto" and takes_branches(
            model, max_tokens=self._settings.max_tokens
        )
        self._place.log(f"finetune: {'several cuts' if branches else 'one cut'} in a forward pass")
        collator = RowCollator(
            question_ids=self._asking.evaluator.question_ids,
            pad_id=pad_id_of(self._base),
            branches=branches,
        )
        reference = self._reference(model)
        if self._settings.compile:
            self._compile(model)
        left_out = 0
        for name, phase in self._phases():
            dataset = self._dataset(name)
            left_out += dataset.num_left_out
            self._history[name] = train_phase(
                model,
                dataset,
                self._phase(name, phase, watched=validation is not None),
                collator,
                reference=reference,
                validation=validation,
                compute_metrics=None if validation is None else _watching(validation),
                tell=partial(self._place.progress, f"finetune: {name}"),
                log=partial(self._log, name),
            )
        if os.environ.get("RANK", "0") == "0":
            self._export(model)
        figures = {"branches": branches, "left_out_for_length": left_out}
        return {**figures, "phases": {n: _last_figures(h) for n, h in self._history.items()}}

    def _log(self, phase: str, line: str) -> None:
        self._place.log(f"finetune: {phase}: {line}")

    def _phases(self) -> list[tuple[str, PhaseSettings]]:
        settings = self._settings
        phases = [("preferences", settings.preferences)]
        return phases if settings.contrast is None else [("contrast", settings.contrast), *phases]

    def _learned_from_cut_off(self) -> bool:
        sets = ("train",) if self._settings.contrast is None else ("train", "contrast")
        folders = [self._examples / name for name in sets]
        return holds_cut_off(folders, self._asking.chat.end_token_ids)

    def _dataset(self, name: str) -> StoredExamples:
        pairs = name == "contrast"
        return StoredExamples(
            self._examples / ("contrast" if pairs else "train"),
            rows_per_item=2 if pairs else 1,
            max_tokens=self._settings.max_tokens,
        )

    def _validation(self) -> StoredExamples | None:
        folder = self._examples / "validation"
        if not count_rows(shards_of(folder)):
            self._place.log("finetune: there are no validation prompts, so nothing is watched")
            return None
        return StoredExamples(folder, max_tokens=self._settings.max_tokens, recut=half_and_whole)

    def _load(self) -> Any:
        lora = self._settings.lora
        dtype = torch.bfloat16 if lora is not None and self._bf16 else torch.float32
        model = load_weights(self._base, dtype=dtype)
        torch.manual_seed(self._place.recipe.seed)  # of the adapters
        return model if lora is None else _with_lora(model, lora)

    @property
    def _bf16(self) -> bool:
        if self._settings.bf16 == "auto":
            return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return self._settings.bf16 == "yes"

    def _reference(self, model: Any) -> Callable[..., Any] | None:
        """Return the model as it was: a copy, or the one under the adapters."""
        if not self._settings.kl_weight:
            return None
        if self._settings.lora is None:
            before: Any = load_weights(self._base).eval().requires_grad_(False)
            return before  # type: ignore[no-any-return]  # a module, which is called

        def without_adapters(**inputs: Any) -> Any:
            with model.disable_adapter():
                return model(**inputs)

        return without_adapters

    def _compile(self, model: Any) -> None:
        if torch.cuda.is_available() or shutil.which("g++"):
            # The decoder alone: the head sees another number of positions in every batch.
            model.get_decoder().compile(dynamic=True)
        else:
            self._place.log("finetune: not compiled, for there is no C++ compiler")

    def _phase(self, name: str, phase: PhaseSettings, *, watched: bool) -> Phase:
        settings = self._settings
        pair = 2 if name == "contrast" else 1
        return Phase(
            folder=self._place.folder,
            name=name,
            batch_items=settings.batch_size // pair,
            lr=phase.lr,
            adam_lr=settings.adam_lr if settings.optimizer == "muon" else None,
            weights=LossWeights(label=1.0, kl=settings.kl_weight),
            label_ids=self._asking.evaluator.label_ids,
            steps=phase.steps,
            epochs=phase.epochs,
            warmup_steps=phase.warmup_steps,
            decay_share=phase.decay_share,
            gradient_accumulation=settings.gradient_accumulation,
            bf16=self._bf16,
            gradient_checkpointing=settings.gradient_checkpointing,
            eval_steps=settings.eval_steps if watched else None,
            save_steps=settings.save_steps,
            seed=self._place.recipe.seed,
        )

    def _export(self, model: Any) -> None:
        """Write weights (adapters merged), tokenizer and an uncalibrated selfeval.json."""
        folder = self._place.folder / "model"
        if self._settings.lora is not None:
            model = model.merge_and_unload()
        if self._settings.blend < 1.0:
            start = load_weights(self._base, dtype=model.dtype).state_dict()
            blend(model, start, share=self._settings.blend)
        kept = AutoConfig.from_pretrained(self._base).dtype
        try:
            with writing(folder):
                model.to(kept or model.dtype).save_pretrained(folder)
                AutoTokenizer.from_pretrained(self._base).save_pretrained(folder)
        except SafetensorError as error:
            raise DatasetError(f"{folder} cannot be written: {one_line(error)}.") from error
        config = self._asking.config.model_copy(
            update={"trained_on_cut_off": self._learned_from_cut_off()}
        )
        config.save(folder)
        logs = self._place.folder / "logs"
        logs.mkdir(exist_ok=True)
        write_atomically(logs / "history.json", json.dumps(self._history, indent=1) + "\n")
        shutil.rmtree(self._place.folder / "checkpoints", ignore_errors=True)


def _watching(validation: StoredExamples) -> _Watched:
    return _Watched(
        keys=[str(key) for key in validation.column("prompt_id")],
        rewards=[float(str(reward)) for reward in validation.column("reward")],
    )


def _with_lora(model: Any, settings: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=(
            settings.target_modules
            if isinstance(settings.target_modules, str)
            else list(settings.target_modules)
        ),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigurationError(
            "finetune.lora.target_modules", settings.target_modules, f"modules of it ({error})"
        ) from error


def _last_figures(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the last line about the validation examples, and the last loss."""
    last: dict[str, float] = {}
    for line in history:
        last.update({k: v for k, v in line.items() if k == "loss" or k.startswith("eval_")})
    return {k: v for k, v in last.items() if not k.endswith(("runtime", "per_second"))}
