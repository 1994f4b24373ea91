"""What is particular to the in-process transformers engine."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra is not installed")

from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from selfeval_backend.engine.base import Chunk, SamplingParams  # noqa: E402
from selfeval_backend.engine.transformers import (  # noqa: E402
    TransformersEngine,
    load_transformers_engine,
)
from selfeval_backend.errors import (  # noqa: E402
    ConfigurationError,
    EngineError,
    EngineResponseError,
    ModelFilesError,
)

torch.set_num_threads(1)  # with such small matrices threads only wait for each other

PROMPT = tuple(range(40, 60))
OTHER_PROMPT = tuple(range(100, 133))
QUESTION = (9, 8, 7, 6, 5)
LABELS = (7, 3, 250)
GREEDY = SamplingParams(temperature=0.0, max_tokens=40, seed=0, stop_token_ids=frozenset())
SAMPLED = replace(GREEDY, temperature=1.0)
SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def qwen() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(**{**SIZES, "num_attention_heads": 4, "head_dim": 16})
    return Qwen3ForCausalLM(config).eval()


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=320, n_positions=256, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return llama()


@pytest.fixture
async def engine(model: PreTrainedModel) -> AsyncIterator[TransformersEngine]:
    made = TransformersEngine(model)
    yield made
    await made.aclose()


async def collect(stream: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def sample(
    engine: TransformersEngine, params: SamplingParams, prompt: tuple[int, ...] = PROMPT
) -> tuple[int, ...]:
    chunks = await collect(engine.stream(prompt, params))
    return tuple(token_id for chunk in chunks for token_id in chunk.token_ids)


@torch.inference_mode()
def plain_logprobs(model: PreTrainedModel, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Return [positions, vocabulary] of a forward pass without a cache."""
    return torch.log_softmax(model(torch.tensor([token_ids])).logits[0].float(), dim=-1)


def plain_labels(model: PreTrainedModel, token_ids: tuple[int, ...]) -> list[float]:
    labels: list[float] = plain_logprobs(model, token_ids)[-1, list(LABELS)].tolist()
    return labels


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the worker thread to catch up."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the worker thread did not get there"
        await asyncio.sleep(0.002)


class Passes:
    """Counts forward passes, and lets them fail."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.error: Exception | None = None
        forward = model.forward

        def counted(input_ids: torch.Tensor, **kwargs: object) -> object:
            self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            return forward(input_ids, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


@pytest.fixture
def passes(
    model: PreTrainedModel, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> Passes:
    assert engine  # made before: its probe is not counted, and its signature is read
    return Passes(model, monkeypatch)


@pytest.mark.parametrize("make", [llama, qwen, gpt2])
@pytest.mark.timeout(120)
async def test_greedy_equals_generate(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    wanted = []
    for prompt in (PROMPT, OTHER_PROMPT):
        output = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=40, eos_token_id=None,
            pad_token_id=0, attention_mask=torch.ones(1, len(prompt)),
        )  # fmt: skip
        wanted.append(tuple(output[0, len(prompt) :].tolist()))
    engine = TransformersEngine(model)
    got = await asyncio.gather(
        *(sample(engine, GREEDY, prompt) for prompt in (PROMPT, OTHER_PROMPT))
    )
    await engine.aclose()
    assert got == wanted


@pytest.mark.timeout(120)
async def test_sampling_does_not_depend_on_companions(engine: TransformersEngine) -> None:
    wanted = [
        (prompt, replace(SAMPLED, seed=seed, temperature=t, top_p=p, max_tokens=20 + seed))
        for seed, (prompt, t, p) in enumerate(
            [
                (PROMPT, 1.0, 1.0),
                (OTHER_PROMPT, 0.7, 0.9),
                (PROMPT, 0.0, 1.0),
                (PROMPT, 1.5, 0.5),
                (OTHER_PROMPT, 1.0, 1.0),
                (PROMPT[:3], 1.0, 1.0),
            ]
        )
    ]
    alone = [await sample(engine, params, prompt) for prompt, params in wanted]
    together = await asyncio.gather(*(sample(engine, params, prompt) for prompt, params in wanted))
    assert together == alone


@pytest.mark.timeout(120)
async def test_max_batch_only_makes_samples_wait(model: PreTrainedModel) -> None:
    narrow, wide = TransformersEngine(model, max_batch=3), TransformersEngine(model)
    params = [replace(SAMPLED, seed=seed, max_tokens=8) for seed in range(8)]
    most = 0

    async def watched(p: SamplingParams) -> tuple[int, ...]:
        nonlocal most
        tokens: tuple[int, ...] = ()
        async for chunk in narrow.stream(PROMPT, p):
            tokens += chunk.token_ids
            most = max(most, narrow.num_running)
        return tokens

    got = await asyncio.gather(*map(watched, params))
    assert got == await asyncio.gather(*(sample(wide, p) for p in params))
    assert most <= 3
    await narrow.aclose()
    await wide.aclose()


@pytest.mark.timeout(120)
async def test_paused_samples_do_not_hold_places(model: PreTrainedModel) -> None:
    # Each waits at its checkpoint for all others: with places held, nobody would get there.
    engine = TransformersEngine(model, max_batch=2)
    barrier = asyncio.Barrier(6)

    async def one(seed: int) -> int:
        params = replace(SAMPLED, seed=seed, checkpoints=(5,), max_tokens=10)
        chunks = []
        async for chunk in engine.stream(PROMPT, params):
            chunks.append(chunk)
            if len(chunks) == 1:
                await barrier.wait()
        return sum(chunk.num_generated_tokens for chunk in chunks)

    assert await asyncio.wait_for(asyncio.gather(*map(one, range(6))), 10) == [10] * 6
    await engine.aclose()


async def test_a_sample_stands_still_at_a_checkpoint(engine: TransformersEngine) -> None:
    stream = engine.stream(PROMPT, replace(SAMPLED, checkpoints=(5, 7)))
    first = await anext(stream)
    await until(lambda: engine.num_running == 0)
    await asyncio.sleep(0.02)
    assert (first.num_generated_tokens, engine.num_running, engine.num_open) == (5, 0, 1)
    # The last token is not in the cache yet, so it and the question are computed, nothing more.
    answer = await engine.label_logprobs(PROMPT + first.token_ids + QUESTION, LABELS)
    assert answer.computed_tokens == 1 + len(QUESTION)
    assert answer.cached_tokens == len(PROMPT) + 4
    second = await anext(stream)
    assert second.num_generated_tokens == 2
    await stream.aclose()
    await until(lambda: engine.num_open == 0)


async def test_a_sample_that_stopped_is_cached_whole(engine: TransformersEngine) -> None:
    free = await sample(engine, SAMPLED)
    stream = engine.stream(PROMPT, replace(SAMPLED, stop_token_ids=frozenset({free[3]})))
    chunk = await anext(stream)
    answer = await engine.label_logprobs(PROMPT + chunk.token_ids + QUESTION, LABELS)
    assert answer.computed_tokens == len(QUESTION)
    await stream.aclose()


async def test_chunks_are_coalesced(model: PreTrainedModel) -> None:
    engine = TransformersEngine(model, chunk_tokens=10)
    chunks = await collect(engine.stream(PROMPT, replace(SAMPLED, checkpoints=(13,))))
    assert [chunk.num_generated_tokens for chunk in chunks] == [10, 3, 10, 10, 7]
    await engine.aclose()


@pytest.mark.timeout(120)
async def test_label_logprobs_equal_a_plain_forward_pass(
    engine: TransformersEngine, model: PreTrainedModel
) -> None:
    """Whole, truncated, unknown, twice the same; at checkpoints, of running rows; all at once."""
    free = [await sample(engine, replace(SAMPLED, seed=seed)) for seed in range(4)]
    checked = 0

    async def check(token_ids: tuple[int, ...]) -> None:
        nonlocal checked
        answer = await engine.label_logprobs(token_ids, LABELS)
        assert answer.logprobs == pytest.approx(plain_labels(model, token_ids), abs=1e-4)
        assert answer.computed_tokens + answer.cached_tokens == len(token_ids)
        checked += 1

    async def one(seed: int) -> tuple[int, ...]:
        params = replace(SAMPLED, seed=seed, checkpoints=(6, 20) if seed % 2 else ())
        tokens: tuple[int, ...] = ()
        async for chunk in engine.stream(PROMPT, params):
            tokens += chunk.token_ids
            await asyncio.gather(
                check(PROMPT + tokens + QUESTION),
                check(PROMPT + tokens + QUESTION),
                check(PROMPT + tokens),
                check(PROMPT + tokens + QUESTION * 4),
                check(PROMPT + tokens[: len(tokens) // 2] + QUESTION),
                check(PROMPT + QUESTION),
                check(PROMPT),
                check(PROMPT[:4]),
                check(OTHER_PROMPT + tokens[:seed]),
            )
        return tokens

    assert await asyncio.gather(*map(one, range(4))) == free
    assert checked >= 9 * 4 * 3


@pytest.mark.parametrize("num_kept", [0, 1, 5, 8])
async def test_an_evaluation_leaves_the_row_as_it_was(
    engine: TransformersEngine, model: PreTrainedModel, num_kept: int
) -> None:
    # Alone, so that nothing else of the pass decides whether the row is extended or copied.
    free = await sample(engine, SAMPLED)
    stream = engine.stream(PROMPT, replace(SAMPLED, checkpoints=(8,)))
    head = (await anext(stream)).token_ids
    token_ids = PROMPT + head[:num_kept] + QUESTION
    for _ in range(2):
        answer = await engine.label_logprobs(token_ids, LABELS)
        assert answer.logprobs == pytest.approx(plain_labels(model, token_ids), abs=1e-4)
        assert answer.cached_tokens == len(PROMPT) + min(num_kept, 7)
    tail = [token for chunk in await collect(stream) for token in chunk.token_ids]
    assert head + tuple(tail) == free


@pytest.mark.timeout(120)
async def test_evaluations_made_together_are_one_pass(
    engine: TransformersEngine, passes: Passes
) -> None:
    streams = [
        engine.stream(PROMPT, replace(SAMPLED, seed=seed, checkpoints=(6,))) for seed in range(8)
    ]
    chunks = await asyncio.gather(*(anext(stream) for stream in streams))
    assert passes.shapes == [(1, len(PROMPT))] + [(8, 1)] * 5
    passes.shapes.clear()
    await asyncio.gather(
        *(engine.label_logprobs(PROMPT + c.token_ids + QUESTION, LABELS) for c in chunks)
    )
    assert passes.shapes == [(8, 1 + len(QUESTION))]
    for stream in streams:
        await stream.aclose()


@pytest.mark.timeout(120)
async def test_a_prompt_is_computed_once(engine: TransformersEngine, passes: Passes) -> None:
    streams = [engine.stream(PROMPT, replace(SAMPLED, seed=seed)) for seed in range(3)]
    first = await asyncio.gather(*(anext(stream) for stream in streams))
    assert [c.cached_prompt_tokens for c in first] == [0, len(PROMPT), len(PROMPT)]
    passes.shapes.clear()
    late = engine.stream(PROMPT, replace(SAMPLED, seed=0))
    chunk = await anext(late)
    assert chunk.cached_prompt_tokens == len(PROMPT) - 1
    assert chunk.token_ids == first[0].token_ids
    assert max(width for _, width in passes.shapes) == 1
    for stream in [*streams, late]:
        await stream.aclose()
    await until(lambda: engine.num_open == 0)
    (chunk, *_) = await collect(engine.stream(PROMPT, SAMPLED))
    assert chunk.cached_prompt_tokens == 0


async def test_logprobs_equal_a_plain_forward_pass(
    engine: TransformersEngine, model: PreTrainedModel
) -> None:
    params = replace(SAMPLED, logprobs=True, temperature=0.6, top_p=0.8)
    chunks = await collect(engine.stream(PROMPT, params))
    tokens = tuple(token_id for chunk in chunks for token_id in chunk.token_ids)
    got = [logprob for chunk in chunks for logprob in chunk.logprobs or ()]
    positions = torch.arange(len(PROMPT) - 1, len(PROMPT) + len(tokens) - 1)
    plain = plain_logprobs(model, PROMPT + tokens)[positions, list(tokens)]
    assert got == pytest.approx(plain.tolist(), abs=1e-4)


@pytest.mark.parametrize("penalty", [0.8, 1.3])
async def test_a_repetition_penalty_is_that_of_generate(
    engine: TransformersEngine, model: PreTrainedModel, penalty: float
) -> None:
    params = replace(GREEDY, repetition_penalty=penalty)
    generated = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        do_sample=False,
        repetition_penalty=penalty,
        max_new_tokens=GREEDY.max_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )
    beside = engine.stream(OTHER_PROMPT, SAMPLED)
    await anext(beside)
    assert await sample(engine, params) == tuple(generated[0, len(PROMPT) :].tolist())
    await beside.aclose()


@pytest.mark.timeout(120)
async def test_first_tokens_follow_the_softmax(
    engine: TransformersEngine, model: PreTrainedModel
) -> None:
    num_samples = 3000
    params = replace(SAMPLED, max_tokens=1, temperature=0.8)
    drawn = await asyncio.gather(
        *(sample(engine, replace(params, seed=seed)) for seed in range(num_samples))
    )
    probs = torch.softmax(plain_logprobs(model, PROMPT)[-1] / 0.8, dim=-1)
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=320)
    expected = probs * num_samples
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    degrees = len(observed) - 1
    # Wilson and Hilferty's bound for the 0.999 quantile of chi-square.
    bound = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert degrees > 20
    assert statistic < bound


@pytest.mark.timeout(120)
async def test_nothing_runs_on_after_a_cancel(engine: TransformersEngine, passes: Passes) -> None:
    streams = [engine.stream(PROMPT, replace(SAMPLED, seed=s, max_tokens=230)) for s in range(4)]
    for stream in streams:
        await anext(stream)
    task = asyncio.create_task(
        collect(engine.stream(OTHER_PROMPT, replace(SAMPLED, max_tokens=200)))
    )
    await until(lambda: engine.num_open == 5)
    task.cancel()
    for stream in streams:
        await stream.aclose()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: engine.num_open == 0)
    assert engine.num_running == 0
    num_passes = len(passes.shapes)
    await asyncio.sleep(0.05)
    assert len(passes.shapes) == num_passes


async def test_a_stream_closed_in_its_first_turn_is_never_opened(
    engine: TransformersEngine, passes: Passes
) -> None:
    # By hand, so that the event loop has no turn in which to send the request off.
    step = engine.stream(PROMPT, SAMPLED).__anext__()
    step.send(None)  # type: ignore[attr-defined]  # typed as an awaitable only
    with pytest.raises(asyncio.CancelledError):
        step.throw(asyncio.CancelledError())  # type: ignore[attr-defined]  # the same
    await sample(engine, replace(SAMPLED, max_tokens=1), OTHER_PROMPT)
    assert passes.shapes == [(1, len(OTHER_PROMPT))]


async def test_pruned_rows_leave_their_slots(engine: TransformersEngine) -> None:
    params = [replace(SAMPLED, seed=seed, checkpoints=(4, 9)) for seed in range(9)]
    free = [await sample(engine, p) for p in params]
    streams = [engine.stream(PROMPT, p) for p in params]
    kept = [list((await anext(stream)).token_ids) for stream in streams]
    for stream in streams[::3]:
        await stream.aclose()
    await until(lambda: engine.num_open == 6)
    newcomer = asyncio.create_task(sample(engine, GREEDY, OTHER_PROMPT))
    for index in (1, 2, 4, 5, 7, 8):
        kept[index] += [t for chunk in await collect(streams[index]) for t in chunk.token_ids]
        assert tuple(kept[index]) == free[index]
    assert await newcomer == await sample(engine, GREEDY, OTHER_PROMPT)


async def test_a_failed_pass_fails_its_rows_only(
    engine: TransformersEngine, passes: Passes
) -> None:
    paused = engine.stream(PROMPT, replace(SAMPLED, checkpoints=(4,)))
    head = await anext(paused)
    cause = RuntimeError("broken kernel")
    passes.error = cause
    with pytest.raises(EngineError, match="broken kernel") as caught:
        await sample(engine, SAMPLED, OTHER_PROMPT)
    assert caught.value.__cause__ is cause
    assert not caught.value.retryable
    passes.error = torch.OutOfMemoryError("no memory")
    with pytest.raises(EngineError, match="no memory") as caught:
        await engine.label_logprobs(PROMPT, LABELS)
    assert caught.value.retryable
    tail = [token for chunk in await collect(paused) for token in chunk.token_ids]
    assert head.token_ids + tuple(tail) == await sample(engine, SAMPLED)


@pytest.mark.timeout(120)
async def test_a_failure_while_decoding_reaches_every_running_stream(
    engine: TransformersEngine, passes: Passes
) -> None:
    streams = [engine.stream(PROMPT, replace(SAMPLED, seed=s, checkpoints=(4,))) for s in range(3)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    passes.error = RuntimeError("broken kernel")
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    assert [type(result) for result in results] == [EngineError] * 3
    await until(lambda: engine.num_open == 0)
    assert len(await sample(engine, SAMPLED)) == SAMPLED.max_tokens


@pytest.mark.timeout(120)
async def test_logits_that_are_not_finite_fail_their_row_only() -> None:
    model = llama()
    engine = TransformersEngine(model)
    healthy = await sample(engine, SAMPLED)
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan
    results = await asyncio.gather(
        sample(engine, SAMPLED, (1, 300, 2)),
        sample(engine, SAMPLED, (1, 300, 2)),
        sample(engine, SAMPLED),
        engine.label_logprobs((5, 300, 6), LABELS),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        EngineResponseError,
        EngineResponseError,
        tuple,
        EngineResponseError,
    ]
    assert results[2] == healthy
    # Neither is anything left in the slots, where it would reach shorter rows through the mask:
    # not of a broken row, whose slot the next one takes while a longer one is open,
    longer = engine.stream(OTHER_PROMPT, replace(SAMPLED, checkpoints=(4,)))
    await anext(longer)
    with pytest.raises(EngineResponseError):
        await sample(engine, SAMPLED, (1, 300) * 40)
    _, again = await asyncio.gather(collect(longer), sample(engine, SAMPLED))
    assert again == healthy
    # and not of a broken question, asked of a row that goes on.
    paused = engine.stream(PROMPT, replace(SAMPLED, checkpoints=(4,)))
    head = (await anext(paused)).token_ids
    with pytest.raises(EngineResponseError):
        await engine.label_logprobs(PROMPT + head + (300,), LABELS)
    tail, _ = await asyncio.gather(collect(paused), sample(engine, SAMPLED, OTHER_PROMPT))
    assert head + tuple(token for chunk in tail for token in chunk.token_ids) == healthy
    await engine.aclose()


@pytest.mark.parametrize("bad", [(3, -1), (3, 320)])
async def test_tokens_outside_the_vocabulary_are_refused(
    engine: TransformersEngine, bad: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="prompt_ids"):
        await sample(engine, SAMPLED, bad)
    with pytest.raises(ConfigurationError, match="label_ids"):
        await engine.label_logprobs(PROMPT, bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)),
        lambda: MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2)),
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=320, d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2)
        ),
    ],
    ids=["sliding window", "state space", "encoder-decoder"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_models_with_another_cache_are_refused(make: Callable[[], PreTrainedModel]) -> None:
    with pytest.raises(ConfigurationError, match="model"):
        TransformersEngine(make())


def test_sizes_are_checked(model: PreTrainedModel) -> None:
    with pytest.raises(ConfigurationError, match="max_batch"):
        TransformersEngine(model, max_batch=0)


async def test_a_model_folder_is_loaded(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_transformers_engine(str(tmp_path), device="cpu")
    plain = TransformersEngine(model)
    assert await sample(loaded, SAMPLED) == await sample(plain, SAMPLED)
    await loaded.aclose()
    await plain.aclose()


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="nowhere"):
        load_transformers_engine(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="dtype"):
        load_transformers_engine(str(tmp_path), dtype="int3")
    with pytest.raises(ConfigurationError, match="device"):
        load_transformers_engine(str(tmp_path), device="abacus")


def worker_threads() -> int:
    return sum(thread.name == "transformers-engine" for thread in threading.enumerate())


async def test_the_thread_starts_late_and_ends_with_the_engine(model: PreTrainedModel) -> None:
    before = worker_threads()
    engine = TransformersEngine(model)
    assert worker_threads() == before
    await sample(engine, SAMPLED)
    assert worker_threads() == before + 1
    await engine.aclose()
    assert worker_threads() == before


async def test_a_forgotten_engine_ends_its_thread(model: PreTrainedModel) -> None:
    before = worker_threads()
    engine = TransformersEngine(model)
    await sample(engine, SAMPLED)
    del engine
    gc.collect()
    await until(lambda: worker_threads() == before)
