"""Which architecture families the engines run, and whether they run them right.

Of each family a random model of a few thousand parameters is made, and drawn from in one batch with
rows of other lengths: greedily against transformers' own `generate`, label log-probabilities
(mid-generation and at the end) against one plain forward pass, and samples with a seed against the
same ones drawn alone.

    python benchmarks/families.py [llama qwen3 ...]     the fixed families, or those named
    python benchmarks/families.py --all [--write]       all that transformers generates text with;
                                                        --write: docs/families.md anew
    python benchmarks/families.py --vllm                some of them on vLLM, on this machine

The exit status is 1 if a family gives wrong numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.engine.transformers import TransformersEngine
from selfeval_backend.engine.transformers.architecture import ENCODERS, check_architecture
from selfeval_backend.errors import ConfigurationError

__all__ = ["FIXED", "PAGE", "Verdict", "examine", "rows_of_page", "tiny_config"]

PAGE = Path(__file__).parents[1] / "docs" / "families.md"

FIXED = (
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    *("gemma", "gemma2", "gemma3_text", "phi", "phi3", "phimoe", "gpt2", "gpt_neox", "gptj"),
    *("opt", "falcon", "starcoder2", "stablelm", "olmo", "olmo2", "olmoe", "cohere", "cohere2"),
    *("granite", "granitemoe", "glm4", "deepseek_v3", "gpt_oss", "llama4_text", "smollm3"),
    *("nemotron", "bloom", "mpt", "mamba", "jamba", "rwkv", "roberta"),
)
"""Forty families that the tests try."""

ON_VLLM = ("llama", "qwen3", "gemma3_text")
"""Families that `--vllm` runs."""

CONTEXT = 128
MOST_PARAMETERS = 2_000_000
TOLERANCE = 1e-4
PROMPT_LENGTHS, MAX_TOKENS, CHECKPOINT = (5, 19, 40), 24, 7
QUESTION, LABELS = (9, 8, 7), (3, 4, 5)

SMALL: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("embedding_dim", "input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "ffn_dim"), 48),
    **dict.fromkeys(("ffn_hidden_size", "d_inner", "dff", "dim_ff", "mlp_dim"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "dim_head", "d_head", "swa_head_dim"), 8),
    **dict.fromkeys(("global_head_dim", "attention_head_size", "attention_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "swa_v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("context_length", "seq_length", "max_target_positions"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("num_shared_experts", "zero_expert_num"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_d_state", "state_size"), 8),
    **dict.fromkeys(("mamba_num_heads", "mamba_head_dim", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups", "n_mamba_heads", "expand"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads", "type_vocab_size"), 2),
    **dict.fromkeys(("linear_num_value_heads", "rotary_dim", "time_step_rank", "laurel_rank"), 4),
    **dict.fromkeys(("hidden_size_per_layer_input", "num_mel_bins"), 8),
    **dict.fromkeys(("image_size", "index_head_dim"), 16),
    **dict.fromkeys(("pad_token_id", "num_kv_shared_layers"), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "mamba_d_ssm": 64,
    "patch_size": 4,
    "num_channels": 3,
    "eos_token_id": 2,
}
"""Sizes by the names that configs have for them."""

_LATENT = {"num_key_value_heads": 4}  # all heads share one compressed key
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
SMALL_OF: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32"), _LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "youtu"), _LATENT),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _LINEAR),
    "kimi_linear": {**_LINEAR, **_LATENT},
    "minicpm3": {**_LATENT, "head_dim": None},
    "granitemoehybrid": _LINEAR,
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid"]},
}
"""What does not fit together at these sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a family."""

    family: str
    model_class: str
    status: str
    """"works", "refused", "not tried", or "WRONG"."""
    why: str = ""


def examine(family: str) -> Verdict:
    """Try one family on the transformers engine."""
    made = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    name = made if isinstance(made, str) else made[0]

    def verdict(status: str, why: str = "") -> Verdict:
        return Verdict(family=family, model_class=name, status=status, why=why)

    try:
        config = tiny_config(family)
    except Exception as error:  # noqa: BLE001  # configs check themselves
        return _by_default_config(family, verdict("not tried", _line(error)))
    try:
        check_architecture(config)
        model = tiny_model(config)
    except ConfigurationError as error:
        return verdict("refused", f"not {error.allowed}")
    except Exception as error:  # noqa: BLE001  # models raise whatever they like
        return _by_default_config(family, verdict("not tried", _line(error)))
    try:
        engine = TransformersEngine(model)
    except ConfigurationError as error:
        return verdict("refused", f"not {error.allowed}")
    if wrong := asyncio.run(_mistakes(model, engine)):
        return verdict("WRONG", "; ".join(wrong))
    return verdict("works", _condition(family, config))


def tiny_config(family: str) -> PreTrainedConfig:
    """Return a small config of a family: one that decodes, with weights that tell tokens apart."""
    config = _tiny(CONFIG_MAPPING[family])
    for part in (config, config.get_text_config(decoder=True)):
        for name in ("initializer_range", "init_std"):
            if hasattr(part, name):
                setattr(part, name, 0.2)
        if part.model_type in ENCODERS:
            part.is_decoder = True
    return config


def _tiny(of: type[PreTrainedConfig]) -> PreTrainedConfig:
    given = {name: SMALL[name] for name in _names(of) if name in SMALL}
    if of.sub_configs:
        default = of()
        for name in of.sub_configs:
            part = getattr(default, name, None)
            if isinstance(part, PreTrainedConfig):
                given[name] = _tiny(type(part)).to_dict()
    return of(**{**given, **SMALL_OF.get(of.model_type, {})})


def _names(of: type[PreTrainedConfig]) -> set[str]:
    return {field.name for field in fields(of)} if is_dataclass(of) else set(SMALL)


def tiny_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a random model, the same each time.

    Raises:
        ValueError: It would not be small.
    """
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError("it cannot be made small")
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        model(torch.tensor([[3, 4, 5, 6]]))
    return model


def _by_default_config(family: str, untried: Verdict) -> Verdict:
    """Return what the config that a family has by default says, where no small one can be made."""
    try:
        check_architecture(CONFIG_MAPPING[family]())
    except ConfigurationError as error:
        return replace(untried, status="refused", why=f"not {error.allowed}")
    except Exception:  # noqa: BLE001  # there is no default
        return untried
    return untried


def _condition(family: str, config: PreTrainedConfig) -> str:
    """Return under which condition a family works that works when it is small."""
    if config.model_type in ENCODERS:
        return "with is_decoder: true"
    try:
        check_architecture(CONFIG_MAPPING[family]())
    except ConfigurationError as error:
        if error.allowed.startswith("full attention"):
            return "where no window is smaller than the context; by default one is"
    except Exception:  # noqa: BLE001  # there is no default
        return ""
    return ""


async def _mistakes(model: PreTrainedModel, engine: Engine) -> list[str]:
    """Return what is wrong with an engine's numbers, in a batch of rows of different lengths."""
    greedy = SamplingParams(
        temperature=0.0, max_tokens=MAX_TOKENS, seed=0, stop_token_ids=frozenset(),
        checkpoints=(CHECKPOINT,),
    )  # fmt: skip
    drawn = [replace(greedy, temperature=1.0, seed=seed) for seed in range(len(PROMPT_LENGTHS))]
    prompts = [_prompt(length) for length in PROMPT_LENGTHS]
    jobs = [*((p, greedy) for p in prompts), *zip(prompts, drawn, strict=True)]
    together = await asyncio.gather(*(_sample(model, engine, p, params) for p, params in jobs))
    alone = [await _sample(model, engine, p, params) for p, params in jobs[len(prompts) :]]
    await engine.aclose()
    wrong = []
    if [tokens for tokens, _ in together[: len(prompts)]] != [
        _generated(model, p) for p in prompts
    ]:
        wrong.append("greedy tokens are not those of generate")
    if [tokens for tokens, _ in together[len(prompts) :]] != [tokens for tokens, _ in alone]:
        wrong.append("seeded tokens depend on the batch")
    if (off := max(error for _, error in [*together, *alone])) > TOLERANCE:
        wrong.append(f"labels are off by {off:.1e}")
    return wrong


def _prompt(length: int) -> tuple[int, ...]:
    return tuple(3 + (7 * i + 3 * length) % 60 for i in range(length))


async def _sample(
    model: PreTrainedModel, engine: Engine, prompt: tuple[int, ...], params: SamplingParams
) -> tuple[tuple[int, ...], float]:
    """Return a sample, and how far its self-evaluations are from a plain forward pass."""
    tokens: tuple[int, ...] = ()
    worst = 0.0
    async for chunk in engine.stream(prompt, params):
        tokens += chunk.token_ids
        if len(tokens) == CHECKPOINT or chunk.finish_reason is not None:
            asked = (*prompt, *tokens, *QUESTION)
            answer = await engine.label_logprobs(asked, LABELS)
            pairs = zip(answer.logprobs, _plain_labels(model, asked), strict=True)
            worst = max(worst, *(abs(ours - plain) for ours, plain in pairs))
    return tokens, worst


def _plain_labels(model: PreTrainedModel, token_ids: Sequence[int]) -> list[float]:
    with torch.inference_mode():
        logits = model(torch.tensor([token_ids])).logits[0, -1].float()
    labels: list[float] = torch.log_softmax(logits, dim=-1)[list(LABELS)].tolist()
    return labels


def _generated(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    output = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False, max_new_tokens=MAX_TOKENS, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return tuple(output[0, len(prompt) :].tolist())


def _line(error: Exception) -> str:
    return f"no small one can be built: {type(error).__name__}"


# On vLLM.


def _run_on_vllm(families: Iterable[str]) -> Iterator[Verdict]:
    """Run families on vLLM's engine: larger heads, as its kernels want them."""
    from selfeval_backend.engine.vllm import load_vllm_engine

    for family in families:
        config = tiny_config(family)
        sizes = {"hidden_size": 128, "head_dim": 32, "vocab_size": 128}
        for name, size in sizes.items():
            if getattr(config, name, None) is not None:
                setattr(config, name, size)
        model = tiny_model(config)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            engine = load_vllm_engine(folder, engine_args={"max_num_seqs": 8})
            wrong = asyncio.run(_mistakes(model, engine))
        yield Verdict(
            family=family,
            model_class=type(model).__name__,
            status="WRONG" if wrong else "works",
            why="; ".join(wrong),
        )


def _registered() -> frozenset[str]:
    """Return the names of the classes that vLLM has."""
    from vllm import ModelRegistry

    return frozenset(ModelRegistry.get_supported_archs())


# The page.


def page(verdicts: Sequence[Verdict], registered: frozenset[str]) -> str:
    """Return the page of the docs."""
    counts = {
        name: sum(verdict.status == status for verdict in verdicts)
        for status, name in _COUNTED.items()
    }
    versions = f"transformers {transformers.__version__}, vLLM {metadata.version('vllm')}"
    return "\n".join(
        (
            _HEAD.format(
                versions=versions, num_fixed=len(FIXED), tolerance=TOLERANCE, **counts
            ).strip(),
            "",
            "| family | class | transformers engine | vLLM |",
            "|---|---|---|---|",
            *(_row(verdict, registered) for verdict in sorted(verdicts, key=lambda v: v.family)),
            "",
        )
    )


_COUNTED = {"works": "works", "refused": "refused", "not tried": "untried"}
_HEAD = """\
# Architecture families

Whether a model's architecture can be run is said by `aic doctor --model NAME`, before its weights
are there. This page says it of every family that transformers generates text with.

**The transformers engine** mixes rows of any length in one batch, over a cache of its own. It
takes decoders whose layers all attend to the whole past, at positions that are given to them:

- A *sliding window* (or a chunk) that is no smaller than the context is full attention, and
  works. A smaller one is refused.
- *Rotary factors that change with the longest row of a batch* (longrope, as in Phi 3 with 128 k
  tokens): the context ends where they would change, with a warning; longer prompts are refused
  before any token. Dynamic NTK scaling is run within `max_position_embeddings`, where it changes
  nothing. Linear, yarn and llama3 scaling are fixed, and work.
- Layers that *choose* from some length on what they attend to (a top-k of the past): the context
  ends there.
- Recurrent and hybrid layers, encoder-decoders, ALiBi, and decoders that count their own
  positions are refused.

"works" in this table means: a random model of a few thousand parameters, in one batch with rows
of other lengths, gives the tokens of transformers' own `generate`, the label log-probabilities of
a plain forward pass within {tolerance:g} (at a checkpoint and at the end), and the same samples
for the same seeds in any batch. {works} work, {refused} are refused, {untried} could not be made
small and were not tried. A model is compared once more when it is loaded: one that differs is
refused.

**vLLM** runs what its registry has, windows and hybrids among them. "run" means that a small
random model was compared in the same way; the others were not run here. Its longrope takes the
factors of long texts for all, if the context that it was started with is longer than the original
one.

Written with {versions} by `python benchmarks/families.py --all --write`. The tests try
{num_fixed} of the families anew each time, and compare them with this page.

"""


def _row(verdict: Verdict, registered: frozenset[str]) -> str:
    ours = verdict.status + (f": {verdict.why}" if verdict.why else "")
    if verdict.family in ON_VLLM:
        theirs = "works (run)"
    else:
        theirs = "in its registry" if verdict.model_class in registered else "not in its registry"
    return f"| {verdict.family} | {verdict.model_class} | {ours} | {theirs} |"


def rows_of_page(text: str) -> dict[str, str]:
    """Return what a page says of each family on the transformers engine."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): cells[2].strip() for cells in rows[1:]}


def main() -> None:
    """Try families; see the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=FIXED)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--vllm", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if arguments.vllm:
        verdicts = list(_run_on_vllm(ON_VLLM))
    else:
        chosen = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if arguments.all else arguments.families
        verdicts = [examine(family) for family in chosen]
    for verdict in verdicts:
        print(f"{verdict.family:28s} {verdict.status:10s} {verdict.why}")
    if arguments.write and arguments.all:
        PAGE.write_text(page(verdicts, _registered()), encoding="utf-8")
    sys.exit(any(verdict.status == "WRONG" for verdict in verdicts))


if __name__ == "__main__":
    main()
