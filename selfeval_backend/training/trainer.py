"""Training by transformers' Trainer: rows with labelled cuts in, a better self-evaluation out.

One device or many: `accelerate launch` starts one process for each (DDP), and how they keep
together is the Trainer's business.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    get_wsd_schedule,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from selfeval_backend.training.branches import BranchBatch, Row, collate, collate_plain
from selfeval_backend.training.losses import LossWeights, compute_losses
from selfeval_backend.training.optim import Muon

__all__ = ["Examples", "Phase", "RowCollator", "SelfEvaluationTrainer", "train_phase"]

Item = tuple[Row, ...]
"""What goes into one batch together: a row, or a pair to contrast."""

_MARK = "complete"
"""Written into a checkpoint once it is whole: the Trainer writes its files one by one."""


class Examples(Dataset[Item], ABC):
    """Items of one or two rows, by their place."""

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """Tokens of each item."""

    @abstractmethod
    def __getitem__(self, place: int) -> Item:
        """Return one item."""

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCollator:
    """Makes tensors of items.

    Args:
        question_ids: The question, tokenised.
        pad_id: For padding.
        branches: Whether the model takes several cuts in one pass.
    """

    question_ids: tuple[int, ...]
    pad_id: int
    branches: bool

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Return the tensors of a batch."""
        rows = [row for item in items for row in item]
        make = collate if self.branches else collate_plain
        return make(rows, self.question_ids, pad_id=self.pad_id).tensors()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How a model is trained for a while."""

    folder: Path
    """Checkpoints and TensorBoard's files."""
    name: str
    batch_items: int
    """Items of a step, a device."""
    lr: float
    adam_lr: float | None = None
    """With it: Muon, and this the learning rate of what is no hidden matrix."""
    weights: LossWeights
    label_ids: tuple[int, int]
    steps: int | None = None
    epochs: float = 1.0
    warmup_steps: int = 50
    decay_share: float = 0.5
    gradient_accumulation: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    eval_steps: int | None = None
    """None: there is nothing to watch."""
    save_steps: int = 200
    data_workers: int = 0
    """Processes that draw and collate beside the training; 0: it does so itself."""
    seed: int = 0


class LengthGroupedSampler(Sampler[int]):
    """Near lengths together, in an order that is the epoch's alone, so that a run can go on.

    Args:
        lengths: Of the items.
        batch_size: Items of a batch.
        seed: Of the order.
    """

    _POOL = 50
    """Batches that are drawn together and sorted by length."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield every place once."""
        rng = random.Random(f"{self._seed}/{self._epoch}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        size, pool = self._batch_size, self._POOL * self._batch_size
        batches = []
        for start in range(0, len(order), pool):
            some = sorted(order[start : start + pool], key=self._lengths.__getitem__)
            batches += [some[i : i + size] for i in range(0, len(some), size)]
        # A short last batch stays last: in the middle it would shift all that follow.
        full = [batch for batch in batches if len(batch) == size]
        rest = [place for batch in batches if len(batch) < size for place in batch]
        rng.shuffle(full)
        for batch in full:
            yield from batch
        yield from rest


@dataclass
class _Sums:
    """Losses since the last line of the log."""

    count: int = 0
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, **losses: torch.Tensor) -> None:
        self.count += 1
        for name, value in losses.items():
            self.values[name] = self.values.get(name, 0.0) + value.detach()

    def means(self) -> dict[str, float]:
        means = {name: round(float(v) / self.count, 5) for name, v in self.values.items()}
        self.count, self.values = 0, {}
        return means


class SelfEvaluationTrainer(Trainer):
    """A Trainer whose loss is that of the label token, with terms on the response tokens.

    Args:
        phase: How it is trained.
        reference: Called as the model is, for the KL.
        arguments: The Trainer's own.
    """

    def __init__(
        self, phase: Phase, *, reference: Callable[..., Any] | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._phase = phase
        self._reference = reference
        self._train_sums, self._eval_sums = _Sums(), _Sums()
        self.model_accepts_loss_kwargs = False  # our losses are means: accumulation divides them

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch; with outputs, the log-odds [B, K] too."""
        losses = compute_losses(
            model,
            BranchBatch.of(inputs),
            self._phase.weights,
            label_ids=self._phase.label_ids,
            reference=self._reference,
        )
        sums = self._train_sums if model.training else self._eval_sums
        sums.add(label=losses.label, kl=losses.kl, language_model=losses.language_model)
        return (losses.total, losses.logits) if return_outputs else losses.total

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return the loss, log-odds [B, K] and targets [B, K] of a batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), logits, inputs["targets"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss to what is logged."""
        if "loss" in logs and self._train_sums.count:
            logs.update(self._train_sums.means())
        if "eval_loss" in logs and self._eval_sums.count:
            logs.update({f"eval_{name}": v for name, v in self._eval_sums.means().items()})
        super().log(logs, start_time)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return Muon where the phase asks for it, else AdamW without weight decay."""
        if self.optimizer is None and self._phase.adam_lr is not None:
            trained: Any = self.model if model is None else model
            self.optimizer = Muon(trained, lr=self._phase.lr, adam_lr=self._phase.adam_lr)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Warm up, stay, and fall to zero over the last share of all steps."""
        if self.lr_scheduler is None:
            chosen = self.optimizer if optimizer is None else optimizer
            assert chosen is not None, "it is made first"
            self.lr_scheduler = get_wsd_schedule(
                chosen,
                num_warmup_steps=self._phase.warmup_steps,
                num_decay_steps=max(1, round(self._phase.decay_share * num_training_steps)),
                num_training_steps=num_training_steps,
                decay_type="linear",
            )
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, Examples):
            return None
        return LengthGroupedSampler(dataset.lengths, self._phase.batch_items, self._phase.seed)


_LOGGED_STEPS = 100
_SHOWN = (
    "label",
    "kl",
    "language_model",
    "eval_label",
    "eval_kl",
    "eval_pair_accuracy_whole",
    "eval_pair_accuracy_half",
)
"""Figures that are worth a line, those of the validation examples apart from those of training."""


class _Steps(TrainerCallback):
    """Tells of steps and figures, and marks checkpoints that are whole."""

    def __init__(self, tell: Callable[[int, int], None], log: Callable[[str], None]) -> None:
        self._tell, self._log = tell, log

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        watched = "eval_loss" in logs
        if watched or ("loss" in logs and state.global_step % _LOGGED_STEPS == 0):
            names = [n for n in _SHOWN if n.removeprefix("eval_") != n or not watched]
            shown = "  ".join(f"{name} {logs[name]:.4f}" for name in names if name in logs)
            self._log(f"step {state.global_step}/{state.max_steps}  {shown}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _MARK).touch()


def train_phase(
    model: Any,
    dataset: Examples | IterableDataset[Item],
    phase: Phase,
    collator: RowCollator,
    *,
    reference: Callable[..., Any] | None = None,
    validation: Examples | None = None,
    compute_metrics: Callable[[Any], dict[str, float]] | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
    log: Callable[[str], None] = lambda _line: None,
) -> list[dict[str, float]]:
    """Train a model in place, from where a stopped run was, and leave it in evaluation mode.

    Args:
        model: A transformers causal language model, wrapped by PEFT or not.
        dataset: What it learns from; an iterable one needs `phase.steps`.
        phase: How.
        collator: Makes tensors.
        reference: For the KL.
        validation: What is watched.
        compute_metrics: Of the log-odds and targets of `validation`, in order.
        tell: Told of steps, and of how many there are.
        log: Told of losses and figures now and then.

    Returns:
        The lines of the log, by step.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # those of writing weights
    checkpoints = phase.folder / "checkpoints" / phase.name
    last = _last_whole(checkpoints)
    trainer = SelfEvaluationTrainer(
        phase,
        reference=reference,
        model=model,
        args=_arguments(phase, checkpoints, begins=last is None),
        train_dataset=dataset,
        eval_dataset=validation,
        data_collator=collator,
        compute_metrics=compute_metrics,
        callbacks=[_Steps(tell, log), *_tensorboard(phase)],
    )
    trainer.remove_callback(PrinterCallback)
    if last is not None and (state := _state(last)).global_step >= state.max_steps:
        trainer.state = state  # nothing is left: the Trainer itself would go on to the epoch's end
        trainer._load_from_checkpoint(str(last))
    else:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if validation is not None:
        trainer.evaluate()
    model.eval()
    history: list[dict[str, float]] = trainer.state.log_history
    return history


def _arguments(phase: Phase, checkpoints: Path, *, begins: bool) -> TrainingArguments:
    watched = phase.eval_steps is not None
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=phase.batch_items,
        per_device_eval_batch_size=phase.batch_items,
        gradient_accumulation_steps=phase.gradient_accumulation,
        learning_rate=phase.lr,
        weight_decay=0.0,
        num_train_epochs=phase.epochs,
        max_steps=-1 if phase.steps is None else phase.steps,
        use_cpu=not torch.cuda.is_available(),  # where the weights are; without it bf16 is refused
        bf16=phase.bf16,
        gradient_checkpointing=phase.gradient_checkpointing,
        # The other way needs inputs with gradients, which adapters on frozen embeddings lack.
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps" if watched else "no",
        eval_steps=phase.eval_steps,
        eval_on_start=watched and begins,
        logging_steps=max(1, min(phase.eval_steps or 100, 20)),
        save_steps=phase.save_steps,
        save_total_limit=2,
        seed=phase.seed,
        data_seed=phase.seed,
        dataloader_num_workers=phase.data_workers,
        # Batches that wait for a step: a worker draws for seconds, and then has several at once.
        dataloader_prefetch_factor=4 if phase.data_workers else None,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["targets"],
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )


def _tensorboard(phase: Phase) -> list[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter

    folder = phase.folder / "tensorboard" / phase.name
    make: Any = TensorBoardCallback
    return [make(SummaryWriter(log_dir=str(folder)))]


def _state(checkpoint: Path) -> TrainerState:
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def _last_whole(checkpoints: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; others are removed."""
    whole = []
    for path in checkpoints.glob("checkpoint-*"):
        if (path / _MARK).exists():
            whole.append(path)
        else:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
