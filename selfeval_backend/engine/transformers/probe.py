"""Find out, before anything is promised, whether a model works with the slot cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from selfeval_backend.engine.transformers.architecture import (
    LEAST_CONTEXT,
    Architecture,
    check_architecture,
    refusal,
)
from selfeval_backend.engine.transformers.runner import ModelRunner, Segment
from selfeval_backend.errors import ConfigurationError, ModelFilesError

__all__ = ["ModelFacts", "probe", "probe_config"]

_TOKENS = LEAST_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the engine has to know of a model."""

    context_length: int
    shortened: str | None
    """Why that is less than the config says; None: it is not."""
    vocab_size: int
    """Token ids that may go in."""
    num_logits: int
    """Token ids that may come out."""


@torch.inference_mode()
def probe(model: PreTrainedModel) -> ModelFacts:
    """Check a model, and compare the slot cache with plain forward passes on a few tokens.

    Raises:
        ConfigurationError: The model needs a cache of another kind (sliding window, state space,
            encoder-decoder), or answers differently with ours.
    """
    found = check_architecture(model.config, type(model))
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise refusal(found.name, "a model on a single device")
    ids = _some_ids(model)
    try:
        plain = model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
        cached = _cached_logits(model, ids).float()
        near, far = (_logits_beside(model, ids, p) for p in (_TOKENS, found.context_length - 1))
    except Exception as error:
        raise _does_not_run(found.name, error) from error
    # Wrong positions or a mask that is ignored are off by the size of the logits themselves.
    if _differ(cached, plain, relative=1e-3 if model.dtype == torch.float32 else 5e-2):
        raise refusal(
            found.name,
            "one whose answers do not change with the engine's cache",
            remedy="Load it with sdpa attention, or run it with vLLM.",
        )
    # The same sums in the same order: only a changed factor makes a difference.
    if _differ(far, near, relative=1e-4):
        raise refusal(found.name, "one whose answers do not change with a batch's longest row")
    return ModelFacts(
        context_length=found.context_length,
        shortened=found.shortened,
        vocab_size=_vocab_size(model),
        num_logits=int(plain.shape[0]),
    )


def probe_config(config: PreTrainedConfig) -> Architecture:
    """Check a model without its weights, as far as that can be done.

    It is built without them, and run as far as it goes where tensors have shapes alone.

    Raises:
        ModelFilesError: It cannot be built.
        ConfigurationError: The engine cannot run it.
    """
    found = check_architecture(config)
    try:
        with torch.device("meta"):
            # transformers does not annotate it
            built = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
            model: PreTrainedModel = built
    except Exception as error:  # models raise whatever they like
        raise ModelFilesError(f"{found.name} cannot be built: {error}") from error
    model.eval()  # type: ignore[no-untyped-call]  # transformers does not annotate it
    try:
        with torch.inference_mode():
            _cached_logits(model, _some_ids(model))
    except Exception as error:
        if not _for_want_of_numbers(error):
            raise _does_not_run(found.name, error) from error
    return found


def _for_want_of_numbers(error: Exception) -> bool:
    """Return whether a pass ended where it would have had to look at a number."""
    return isinstance(error, NotImplementedError) or "meta" in str(error)


def _some_ids(model: PreTrainedModel) -> list[int]:
    return [(7 * i + 1) % _vocab_size(model) for i in range(_TOKENS)]


def _vocab_size(model: PreTrainedModel) -> int:
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    return int(embeddings.shape[0])


def _cached_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Compute the same logits twice [2, V], in rows that were of different lengths meanwhile."""
    runner = ModelRunner(model)
    runner.cache.fit(2, _TOKENS)
    for starts, ends in (((0, 0), (5, 3)), ((5, 3), (_TOKENS, _TOKENS))):
        segments = [
            Segment(token_ids=ids[start:stop], start=start, slot=slot, appends=True)
            for slot, (start, stop) in enumerate(zip(starts, ends, strict=True))
        ]
        logits = runner.extend(segments, write=True)
    return logits


def _logits_beside(model: PreTrainedModel, ids: list[int], position: int) -> torch.Tensor:
    """Compute logits [V] before a token that stands somewhere behind the others."""
    width = len(ids) + 1
    causal = torch.full((1, 1, width, width), torch.finfo(model.dtype).min).triu(1)
    logits: torch.Tensor = model(
        input_ids=torch.tensor([[*ids, 0]], device=model.device),
        position_ids=torch.tensor([[*range(len(ids)), position]], device=model.device),
        attention_mask=causal.to(device=model.device, dtype=model.dtype),
        use_cache=False,
        return_dict=True,
    ).logits
    return logits[0, -2].float()


def _differ(found: torch.Tensor, wanted: torch.Tensor, *, relative: float) -> bool:
    return bool((found - wanted).abs().max() > relative * wanted.abs().max())


def _does_not_run(name: str, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return refusal(name, f"one that runs with the engine's cache ({reason})")
