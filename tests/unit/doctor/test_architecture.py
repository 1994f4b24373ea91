"""The doctor asks the engine whether it would run a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra is not installed")

from transformers import (  # noqa: E402
    BertConfig,
    BloomConfig,
    Gemma3nConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    T5Config,
)

from selfeval_backend.doctor import check_architecture  # noqa: E402
from selfeval_backend.engine.transformers import load_transformers_engine  # noqa: E402
from selfeval_backend.errors import AICError  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "config",
    [
        Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=16),
        MistralConfig(**SIZES, sliding_window=16),
        BloomConfig(vocab_size=64),
        T5Config(vocab_size=64),
        BertConfig(vocab_size=64, hidden_size=32, num_attention_heads=4),
    ],
    ids=lambda c: c.model_type,
)
def test_what_the_engine_refuses_fails_in_its_words(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(AICError) as raised:
        load_transformers_engine(str(tmp_path))
    check = check_architecture(tmp_path, engine="transformers")
    assert check.status == "failed"
    assert check.remedy
    assert str(raised.value).startswith(check.found)


def test_a_model_whose_packages_are_missing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    Gemma3nConfig().save_pretrained(tmp_path)
    assert check_architecture(tmp_path, engine="transformers").status == "failed"


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=4096)],
    ids=["full", "a window larger than the context"],
)
def test_what_the_engine_runs_is_well(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    check = check_architecture(tmp_path, engine="transformers")
    assert check.status == "ok"
    assert "128 tokens of context" in check.found


def test_a_context_that_ends_early_is_a_warning(tmp_path: Path) -> None:
    LlamaConfig(**SIZES, rope_parameters=LONGROPE).save_pretrained(tmp_path)
    check = check_architecture(tmp_path, engine="transformers")
    assert check.status == "warning"
    assert "32 can be used" in check.found


def test_the_reference_model_is_well() -> None:
    assert check_architecture("reference", engine="transformers").status == "ok"


def test_without_files_or_packages_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_architecture(tmp_path, engine="transformers").status == "not checked"
    monkeypatch.setitem(sys.modules, "vllm", None)
    check = check_architecture("reference", engine="vllm")
    assert (check.status, check.found) == ("not checked", "vllm is not installed")
