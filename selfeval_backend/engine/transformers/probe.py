"""Find out, before anything is promised, whether a model works with the slot cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from selfeval_backend.engine.transformers.runner import ModelRunner, Segment
from selfeval_backend.errors import ConfigurationError

__all__ = ["ModelFacts", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the engine has to know of a model."""

    context_length: int
    vocab_size: int
    """Token ids that may go in."""
    num_logits: int
    """Token ids that may come out."""


@torch.inference_mode()
def probe(model: PreTrainedModel) -> ModelFacts:
    """Check a model, and compare the slot cache with a plain forward pass on a few tokens.

    Raises:
        ConfigurationError: The model needs a cache of another kind (sliding window, state space,
            encoder-decoder), or answers differently with ours.
    """
    name = type(model).__name__
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        raise _refusal(name, "a decoder-only model")
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise _refusal(name, "a model on a single device")
    # Exactly this class: its subclasses are windows, and what is none of it has no KV at all.
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        raise _refusal(name, "full attention with a KV cache in every layer")
    context_length = getattr(config, "max_position_embeddings", None)
    if not isinstance(context_length, int) or context_length < _TOKENS:
        raise _refusal(name, "a config with max_position_embeddings")
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    vocab_size = embeddings.shape[0]
    return ModelFacts(
        context_length=context_length,
        vocab_size=vocab_size,
        num_logits=_compare(model, name, vocab_size),
    )


_TOKENS = 8


def _compare(model: PreTrainedModel, name: str, vocab_size: int) -> int:
    """Compute the same logits plainly and in rows of different lengths; return how many."""
    ids = [(7 * i + 1) % vocab_size for i in range(_TOKENS)]
    try:
        plain = model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
        runner = ModelRunner(model)
        runner.cache.fit(2, _TOKENS)
        for end in ((5, 3), (_TOKENS, _TOKENS)):
            starts = (0, 0) if end == (5, 3) else (5, 3)
            segments = [
                Segment(token_ids=ids[start:stop], start=start, slot=slot, appends=True)
                for slot, (start, stop) in enumerate(zip(starts, end, strict=True))
            ]
            logits = runner.extend(segments, write=True).float()
    except Exception as error:
        raise _refusal(name, f"one that runs with the engine's cache ({error})") from error
    # Wrong positions or a mask that is ignored are off by the size of the logits themselves.
    relative = 1e-3 if model.dtype == torch.float32 else 5e-2
    if (logits - plain).abs().max() > relative * plain.abs().max():
        raise _refusal(name, "one whose answers do not change with the engine's cache")
    return int(plain.shape[0])


def _refusal(name: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(
        "model", name, allowed, remedy="Serve it with another engine, or load it with sdpa."
    )
