"""A small recipe over made-up prompts, and stages that run without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfeval_backend.training.pipeline import Pipeline, Stage
from selfeval_backend.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    """Make a recipe of a JSONL file; keywords are sections."""

    def make(rows: Sequence[Mapping[str, Any]] = (), **sections: Any) -> Recipe:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"kind": "file", "path": str(path), **sections.pop("source", {})}
        body = {
            "name": "test",
            "model": "reference",
            "folder": tmp_path / "run",
            "prompts": {"source": source, **sections.pop("prompts", {})},
            "rewards": {"kind": "math"},
        }
        return Recipe.model_validate({**body, **sections})

    return make


def new_model() -> LlamaForCausalLM:
    """Return a small model of random weights, the same ones each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def make_pipeline(recipe: Recipe, *stages: Stage) -> tuple[Pipeline, list[str]]:
    """Return a pipeline, and the lines that it logs."""
    lines: list[str] = []
    quiet = Pipeline(recipe, stages, progress=lambda *_: None, log=lines.append)
    return quiet, lines
