"""What the transformers engine tells of a model from its config alone, and up to which length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra is not installed")

from transformers import (  # noqa: E402
    BertConfig,
    BigBirdConfig,
    BloomConfig,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

from selfeval_backend.engine.base import SamplingParams  # noqa: E402
from selfeval_backend.engine.transformers import (  # noqa: E402
    TransformersEngine,
    check_transformers_model,
    load_transformers_engine,
)
from selfeval_backend.engine.transformers.architecture import (  # noqa: E402
    check_architecture,
    plain_attention_length,
)
from selfeval_backend.errors import (  # noqa: E402
    ConfigurationError,
    ContextLengthError,
    ModelFilesError,
)

torch.set_num_threads(1)  # with such small matrices threads only wait for each other

CONTEXT, ORIGINAL = 128, 32
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"head_dim": 8}
SHORT, LONG = tuple(range(5, 15)), tuple(5 + i % 50 for i in range(60))
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, seed=0, stop_token_ids=frozenset())

shortened = pytest.mark.filterwarnings("ignore:.*can be used")


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0, **more}


def longrope(**more: Any) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    return rope("longrope", original_max_position_embeddings=ORIGINAL, **factors, **more)


def phi3() -> PreTrainedModel:
    config = Phi3Config(
        **SIZES, original_max_position_embeddings=ORIGINAL, rope_parameters=longrope()
    )
    torch.manual_seed(0)
    return Phi3ForCausalLM(config).eval()


def llama(**more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more)).eval()


async def sample(engine: TransformersEngine, prompt: tuple[int, ...]) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    async for chunk in engine.stream(prompt, GREEDY):
        tokens += chunk.token_ids
    return tokens


def generated(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    output = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False, max_new_tokens=GREEDY.max_tokens, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return tuple(output[0, len(prompt) :].tolist())


@shortened
@pytest.mark.parametrize(
    "make", [phi3, lambda: llama(rope_parameters=longrope())], ids=["phi3", "llama"]
)
async def test_longrope_is_right_up_to_its_original_length_and_refused_past_it(
    make: Callable[[], PreTrainedModel],
) -> None:
    model = make()
    engine = TransformersEngine(model)
    assert engine.capabilities.context_length == ORIGINAL
    short, long = await asyncio.gather(
        sample(engine, SHORT), sample(engine, LONG), return_exceptions=True
    )
    assert isinstance(long, ContextLengthError)
    with pytest.raises(ContextLengthError):
        await engine.label_logprobs(LONG, (3,))
    at_the_end = (*SHORT * 3, 9, 8)
    assert len(at_the_end) == ORIGINAL
    answer = await engine.label_logprobs(at_the_end, (3, 4))
    await engine.aclose()
    assert short == generated(model, SHORT)
    with torch.inference_mode():
        plain = torch.log_softmax(model(torch.tensor([at_the_end])).logits[0, -1], dim=-1)
    assert answer.logprobs == pytest.approx(plain[[3, 4]].tolist(), abs=1e-4)


def test_a_shortened_context_is_said() -> None:
    with pytest.warns(UserWarning, match="of the 128 tokens .* 32 can be used"):
        TransformersEngine(phi3())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_that_change_without_the_config_saying_so_are_found(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = llama(rope_parameters=longrope()).to(dtype)
    # As code that came with a model has it: transformers' name for it is nowhere.
    monkeypatch.setitem(model.config.rope_parameters, "rope_type", "default")
    with pytest.raises(ConfigurationError, match="longest row"):
        TransformersEngine(model)


@pytest.mark.parametrize(
    "parameters",
    [
        rope("dynamic"),
        rope("linear"),
        rope("yarn", original_max_position_embeddings=ORIGINAL),
        rope(
            "llama3", original_max_position_embeddings=ORIGINAL,
            low_freq_factor=1.0, high_freq_factor=4.0,
        ),
    ],
    ids=lambda p: p["rope_type"],
)  # fmt: skip
async def test_other_scaled_ropes_are_right_beside_a_long_row(parameters: dict[str, Any]) -> None:
    model = llama(rope_parameters=parameters)
    engine = TransformersEngine(model)
    assert engine.capabilities.context_length == CONTEXT
    longest = LONG + LONG[: CONTEXT - len(LONG) - GREEDY.max_tokens]
    got = await asyncio.gather(*(sample(engine, p) for p in (SHORT, longest)))
    await engine.aclose()
    assert got == [generated(model, SHORT), generated(model, longest)]


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(**SIZES), float("inf")),
        (LlamaConfig(**SIZES, rope_parameters=longrope()), ORIGINAL),
        (LlamaConfig(**SIZES, rope_parameters=rope("dynamic")), CONTEXT),
        (
            PhimoeConfig(**SIZES, rope_parameters=longrope(short_mscale=1.1, long_mscale=1.2)),
            ORIGINAL,
        ),
        (MistralConfig(**SIZES, sliding_window=CONTEXT), CONTEXT),
        (MistralConfig(**SIZES, sliding_window=16), 16),
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2), 0),
        (GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]]), 256),
        (BigBirdConfig(), 704),
        (DogeConfig(keep_window_size=48), 48),
        (Llama4TextConfig(**SIZES, **HEADS, floor_scale=64, attn_temperature_tuning=True), 63),
    ],
    ids=["rope", "longrope", "dynamic", "its own factors", "window", "small window", "state",
         "local", "blocks", "choosing", "temperature"],
)  # fmt: skip
def test_up_to_where_attention_is_plain(config: PreTrainedConfig, length: float) -> None:
    assert plain_attention_length(config) == length


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=CONTEXT),
        MistralConfig(**SIZES, sliding_window=4096),
        MistralConfig(**SIZES, sliding_window=None),
        Phi3Config(**SIZES, sliding_window=262_144),
        Qwen2Config(**SIZES, use_sliding_window=False, sliding_window=16, max_window_layers=0),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=CONTEXT, max_window_layers=1),
        Gemma2Config(**SIZES, **HEADS, sliding_window=CONTEXT),
        Gemma3TextConfig(**SIZES, **HEADS, sliding_window=CONTEXT),
        Gemma3TextConfig(
            **SIZES, **HEADS, sliding_window=16, layer_types=["full_attention"] * 2
        ),
        Llama4TextConfig(**SIZES, **HEADS, attention_chunk_size=CONTEXT),
    ],
    ids=lambda c: f"{c.model_type} {getattr(c, 'sliding_window', None)}",
)  # fmt: skip
def test_windows_that_hold_the_whole_context_are_full_attention(config: PreTrainedConfig) -> None:
    assert check_architecture(config).context_length == CONTEXT


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=CONTEXT - 1),
        Qwen2Config(
            **SIZES, use_sliding_window=True, sliding_window=CONTEXT - 1, max_window_layers=1
        ),
        Gemma3TextConfig(**SIZES, **HEADS, sliding_window=CONTEXT - 1),
        Llama4TextConfig(**SIZES, **HEADS, attention_chunk_size=CONTEXT - 1),
    ],
    ids=lambda c: c.model_type,
)
def test_windows_within_the_context_are_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(ConfigurationError, match="full attention"):
        check_architecture(config)


async def test_a_window_as_large_as_the_context_says_what_generate_says() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=CONTEXT)).eval()
    engine = TransformersEngine(model)
    prompts = (SHORT, LONG, LONG + LONG[:56])
    got = await asyncio.gather(*(sample(engine, prompt) for prompt in prompts))
    await engine.aclose()
    assert got == [generated(model, prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (T5Config(vocab_size=64), "decoder-only"),
        (BloomConfig(vocab_size=64), "positions"),
        (FalconConfig(**SIZES, alibi=True), "ALiBi"),
        (Gemma3TextConfig(**SIZES, **HEADS, sliding_window=16), "full attention"),
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2), "KV cache"),
        (BertConfig(vocab_size=64, hidden_size=32, num_attention_heads=4), "is_decoder"),
        (RobertaConfig(vocab_size=64, is_decoder=True), "positions"),
        (GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]]), "full attention"),
        (GPT2Config(n_positions=4), "max_position_embeddings"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_folder_with_a_config_alone_is_refused_as_loading_would(
    config: PreTrainedConfig, said: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    for refuse in (check_transformers_model, load_transformers_engine):
        with pytest.raises(ConfigurationError, match=said) as raised:
            refuse(str(tmp_path))
        assert raised.value.field == "model"


def test_a_folder_with_a_config_alone_is_taken_before_its_weights_are_there(tmp_path: Path) -> None:
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    found = check_transformers_model(str(tmp_path))
    assert (found.name, found.context_length) == ("LlamaForCausalLM", CONTEXT)
    with pytest.raises(ModelFilesError):
        load_transformers_engine(str(tmp_path))


@pytest.mark.parametrize("text", ["{", '{"model_type": "no_such_architecture"}', "[]"])
def test_a_config_that_cannot_be_read_is_a_checkpoint_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    for refuse in (check_transformers_model, load_transformers_engine):
        with pytest.raises(ModelFilesError, match="cannot be loaded"):
            refuse(str(tmp_path))
