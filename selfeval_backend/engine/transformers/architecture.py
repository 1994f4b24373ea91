"""What can be told of a model from its config alone, before any weight is read.

The engine's cache keeps every key and value of a row, and a batch mixes rows of any length. That is
right for attention that sees all of the past, at positions that are given, with rotary factors that
depend on nothing else. Up to some length other models do just that too: below their window, or
below the length from which their factors change. Factors that change for the whole batch are what
the context is shortened to; windows within the context are refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from selfeval_backend.errors import ConfigurationError, ModelFilesError

__all__ = [
    "Architecture",
    "check_architecture",
    "load_config",
    "plain_attention_length",
    "refusal",
]

LEAST_CONTEXT = 8
"""Tokens that a model is tried with."""

_CACHE_NAMES = ("past_key_values", "cache")
"""Of the argument that takes a cache; transformers 5.24 renamed it."""

_CHANGING_ROPE = ("longrope", "su")
"""Rotary factors that are others once the longest row of a batch passes the original length."""

_CHOOSING_FIELDS = ("index_topk", "keep_window_size")
"""Tokens from which on a layer attends to some of the past only, and chooses which."""

ENCODERS = frozenset(
    {"bert", "bert-generation", "big_bird", "electra", "ernie", "megatron-bert", "rembert"}
    | {"roc_bert"}
)
"""Model types that attend to the future too, unless their config says that they decode. (Others
have the field, and attend to the past alone whatever it says: gpt_neox.)"""

_OWN_CACHES = frozenset({"xlm"})
"""Model types whose cache is none of transformers' own."""

_OWN_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)
"""Model types that count positions from past their padding token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model that the engine takes, as far as its config tells."""

    name: str
    """Of the model's class."""
    num_layers: int
    """That have keys and values."""
    context_length: int
    """Most tokens of a sequence."""
    shortened: str | None
    """Why that is less than the config says; None: it is not."""


def load_config(path_or_name: str) -> PreTrainedConfig:
    """Read a model's config.

    Raises:
        ModelFilesError: It cannot be read, or transformers does not know the architecture.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path_or_name)
    except Exception as error:  # configs check themselves, and raise whatever they like
        raise ModelFilesError(f"{path_or_name} cannot be loaded: {error}") from error
    return config


def check_architecture(
    config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None
) -> Architecture:
    """Refuse a model that the engine cannot run, as far as its config tells.

    Args:
        config: Of the whole model; of one that also sees or hears, the text's part counts.
        model_class: None: the one that transformers generates text with.

    Raises:
        ConfigurationError: Names the model's class, and what it would have to be.
    """
    if model_class is None:
        generating: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        model_class = generating
    name = type(config).__name__ if model_class is None else model_class.__name__
    if config.is_encoder_decoder:
        raise refusal(name, "a decoder-only model")
    if model_class is None:
        raise refusal(name, "a model that generates text")
    text = _text_config(config, name)
    _check_attention(config, text, model_class)
    length = getattr(text, "max_position_embeddings", None)
    if not isinstance(length, int) or length < LEAST_CONTEXT:
        raise refusal(name, "a config with max_position_embeddings")
    layers = _layers(config, name)
    if min(_plain_up_to(layers), _local_window(text)) < length:
        raise refusal(name, "full attention with a KV cache in every layer")
    constant = _constant_up_to(text)
    return Architecture(
        name=name,
        num_layers=len(layers),
        context_length=int(min(length, constant)),
        shortened=_why_shorter(constant, length) if constant < length else None,
    )


def plain_attention_length(config: PreTrainedConfig) -> float:
    """Return up to how many tokens a model attends to all of the past, with constant factors.

    0 where some layer is no attention at all, infinity where there is no such limit.
    """
    text = config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # noqa: BLE001  # transformers cannot tell the layers: nothing is known
        return 0
    return min(_plain_up_to(layers), _local_window(text), _constant_up_to(text))


def refusal(
    name: str, allowed: str, *, remedy: str = "Run it with vLLM, or use another model."
) -> ConfigurationError:
    """Return the error of a model that the engine cannot run."""
    return ConfigurationError("model", name, allowed, remedy=remedy)


def _text_config(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    try:
        return config.get_text_config(decoder=True)
    except ValueError as error:
        raise refusal(name, f"a model with one text part ({error})") from error


def _check_attention(
    config: PreTrainedConfig, text: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> None:
    """Refuse attention that is not told where its tokens stand, or that sees the future."""
    name = model_class.__name__
    accepted = inspect.signature(model_class.forward).parameters
    if not accepted.keys() & set(_CACHE_NAMES) or config.model_type in _OWN_CACHES:
        raise refusal(name, "a model with a KV cache")
    if _has_alibi(text):
        raise refusal(name, "positions that are given, not a bias of the distance (ALiBi)")
    if "position_ids" not in accepted or config.model_type in _OWN_POSITIONS:
        raise refusal(name, "a model that takes the positions of its tokens")
    if config.model_type in ENCODERS and not text.is_decoder:
        raise refusal(name, "a model that attends to the past alone (is_decoder: true)")


def _has_alibi(text: PreTrainedConfig) -> bool:
    attention = getattr(text, "attn_config", None)
    return bool(getattr(text, "alibi", False) or getattr(attention, "alibi", False))


def _layers(config: PreTrainedConfig, name: str) -> list[Any]:
    try:
        return list(DynamicCache(config=config).layers)
    except Exception as error:
        raise refusal(name, f"a model whose layers its config tells ({error})") from error


def _plain_up_to(layers: list[Any]) -> float:
    """Return up to how many tokens every layer is full attention over keys and values."""
    return min((_layer_plain_up_to(layer) for layer in layers), default=0)


def _layer_plain_up_to(layer: Any) -> float:
    # Exactly these classes: subclasses hold more, and what is none of them has no KV at all.
    if type(layer) is DynamicLayer:
        return math.inf
    if type(layer) is DynamicSlidingWindowLayer:
        return int(layer.sliding_window)
    return 0


def _local_window(text: PreTrainedConfig) -> float:
    """Return the window of layers that are local, and keep all of the past all the same."""
    is_local = "local" in (getattr(text, "attention_layers", None) or ())
    return int(text.window_size) if is_local else math.inf


def _constant_up_to(text: PreTrainedConfig) -> float:
    """Return up to how many tokens nothing changes with the length of the longest row."""
    limits = [math.inf]
    for rope in _ropes(getattr(text, "rope_parameters", None)):
        if rope.get("rope_type") in _CHANGING_ROPE:
            limits.append(_original_length(rope, text))
        elif "dynamic" in str(rope.get("rope_type")):
            limits.append(text.max_position_embeddings)
    limits += [n for field in _CHOOSING_FIELDS if (n := getattr(text, field, None))]
    return min(*limits, _blocks_hold(text), _untempered_up_to(text))


def _blocks_hold(text: PreTrainedConfig) -> float:
    """Return how many tokens the blocks hold that a layer attends to; infinity if it has none."""
    if getattr(text, "attention_type", None) == "block_sparse":  # Source: BigBirdModel.forward
        return int((5 + 2 * text.num_random_blocks) * text.block_size)
    blocks, size = (getattr(text, name, None) for name in ("index_topk_blocks", "index_block_size"))
    return blocks * size if blocks and size else math.inf


def _untempered_up_to(text: PreTrainedConfig) -> float:
    """Return up to where Llama 4 does not scale its queries, for which it counts on its own."""
    tempered = getattr(text, "attn_temperature_tuning", False)
    return int(text.floor_scale) - 1 if tempered else math.inf


def _ropes(parameters: object) -> Iterator[Mapping[str, Any]]:
    """Yield the rotary parameters of a config, those of each kind of layer where they differ."""
    if isinstance(parameters, Mapping):
        if "rope_type" in parameters:
            yield parameters
        for inner in parameters.values():
            yield from _ropes(inner)


def _original_length(rope: Mapping[str, Any], text: PreTrainedConfig) -> int:
    found = rope.get("original_max_position_embeddings")
    found = getattr(text, "original_max_position_embeddings", None) if found is None else found
    return text.max_position_embeddings if found is None else int(found)


def _why_shorter(constant: float, length: int) -> str:
    return (
        f"of the {length:,} tokens that its config names, {constant:,} can be used: past them its "
        "attention depends on the other rows of a batch"
    )
