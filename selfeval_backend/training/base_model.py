"""The model that is trained: its files, its tokenizer, and an engine that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.engine.base import Engine
from selfeval_backend.hashing import Hasher
from selfeval_backend.model import choose_engine, identify_files, locate_model_files
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.recipe import Recipe, RolloutSettings

__all__ = ["Asking", "base_folder", "load_asking", "model_inputs", "open_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a model is spoken to, and asked about its own responses."""

    chat: ChatTemplate
    config: SelfEvalConfig
    """Without calibration."""
    evaluator: SelfEvaluator


def load_asking(recipe: Recipe) -> Asking:
    """Load tokenizer and chat template, and place the recipe's question and labels in them.

    Raises:
        ModelFilesError: There is no such model, or no chat template that can be used.
        SelfEvaluationError: The labels do not differ in their first token.
    """
    chat = ChatTemplate.load(base_folder(recipe, with_weights=False))
    config = SelfEvalConfig(
        question=recipe.question,
        win_or_tie_label=recipe.win_or_tie_label,
        loss_label=recipe.loss_label,
        closes_thought=True,
    )
    return Asking(chat=chat, config=config, evaluator=SelfEvaluator(config, chat))


def base_folder(recipe: Recipe, *, with_weights: bool = True) -> Path:
    """Return the folder of the recipe's model; a model name is downloaded if need be.

    Raises:
        ModelFilesError: There is no such model.
    """
    return locate_model_files(recipe.model, with_weights=with_weights)


def model_inputs(recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
    """Return what tells one model, with its question and labels, from another.

    A folder of the user by its content; a model name by the revision that it was resolved to.

    Raises:
        ModelFilesError: The model cannot be used.
        SelfEvaluationError: The labels do not differ in their first token.
    """
    load_asking(recipe)  # refused here, before any token
    return {
        "model": identify_files(recipe.model, hasher),
        "question": [recipe.question, recipe.win_or_tie_label, recipe.loss_label],
    }


def open_engine(folder: Path, settings: RolloutSettings) -> Engine:
    """Start the engine that draws samples.

    Raises:
        ModelFilesError: The model cannot be loaded.
        MissingDependencyError: vLLM is not installed.
        ConfigurationError: vLLM refuses an argument.
    """
    if (settings.engine or choose_engine()) == "vllm":
        from selfeval_backend.engine.vllm import load_vllm_engine

        return load_vllm_engine(str(folder), engine_args=settings.engine_args)
    from selfeval_backend.engine.transformers import load_transformers_engine

    return load_transformers_engine(str(folder), max_batch=settings.max_batch)
