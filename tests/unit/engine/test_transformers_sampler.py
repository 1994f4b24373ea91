"""Drawing tokens: the right distribution, and the same draw whatever the batch."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")

logits_process = pytest.importorskip(
    "transformers.generation.logits_process", reason="the extra with transformers is not installed"
)

from selfeval_backend.engine.base import SamplingParams  # noqa: E402
from selfeval_backend.engine.transformers.penalties import RepetitionPenalty  # noqa: E402
from selfeval_backend.engine.transformers.sampler import (  # noqa: E402
    NOT_FINITE,
    Sampler,
    uniform,
)
from selfeval_backend.engine.transformers.truncation import Truncation  # noqa: E402

CPU = torch.device("cpu")


def params(
    seed: int = 0, temperature: float = 1.0, top_p: float = 1.0, *, logprobs: bool = False
) -> SamplingParams:
    return SamplingParams(
        temperature=temperature,
        max_tokens=1,
        seed=seed,
        stop_token_ids=frozenset(),
        top_p=top_p,
        logprobs=logprobs,
    )


def draw(logits: torch.Tensor, *rows: SamplingParams, counter: int = 0) -> list[int]:
    sampler = Sampler(rows, [counter] * len(rows), [()] * len(rows), CPU)
    token_ids: list[int] = sampler.draw(logits.expand(len(rows), -1)).token_ids.tolist()
    return token_ids


def test_random_numbers_are_uniform_and_unlike_their_neighbours() -> None:
    streams = torch.arange(400)[:, None].expand(400, 100).contiguous()
    counters = torch.arange(100).expand(400, 100).contiguous()
    numbers = uniform(streams, counters)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=50, min=0, max=1)
    assert ((counts - 800) ** 2 / 800).sum() < 85.4  # 0.999 quantile, 49 degrees of freedom
    for other in (numbers.roll(1, 0), numbers.roll(1, 1)):
        pair = torch.stack([numbers.flatten(), other.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.02  # standard error 0.005


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0, -torch.inf]])
    drawn = draw(logits, *(params(seed, temperature=0.7) for seed in range(20_000)))
    counts = torch.bincount(torch.tensor(drawn), minlength=5)
    expected = torch.softmax(logits[0] / 0.7, dim=-1) * 20_000
    assert counts[4] == 0
    assert ((counts - expected)[:4] ** 2 / expected[:4]).sum() < 16.3  # 0.999, 3 degrees


def test_top_p_keeps_the_fewest_tokens_that_hold_it() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()

    def kept(top_p: float) -> set[int]:
        return set(draw(logits, *(params(seed, top_p=top_p) for seed in range(500))))

    assert kept(0.01) == {1}
    assert kept(0.49) == {1}
    assert kept(0.6) == {1, 3}
    assert kept(0.8) == {1, 2, 3}
    assert kept(1.0) == {0, 1, 2, 3}


def test_a_draw_does_not_depend_on_its_companions() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3000)
    limits = [
        *({"top_p": 1.0}, {"top_p": 0.7}, {"top_k": 3}, {"top_k": 2000}, {"min_p": 0.1}),
        *({"top_k": 40, "top_p": 0.5}, {"repetition_penalty": 1.5}),
    ]
    rows = [
        replace(params(seed, temperature), **limit)
        for seed in range(5)
        for temperature in (0.0, 0.5, 1.0)
        for limit in limits
    ]
    together = draw(logits, *rows, counter=3)
    assert together == [draw(logits, each, counter=3)[0] for each in rows]


def in_turn(logits: torch.Tensor, history: list[int], row: SamplingParams) -> torch.Tensor:
    """Return the distribution that transformers' own processors leave, in vLLM's order."""
    seen = torch.tensor([history])
    for processor in (
        logits_process.RepetitionPenaltyLogitsProcessor(row.repetition_penalty),
        logits_process.TemperatureLogitsWarper(row.temperature),
        logits_process.MinPLogitsWarper(row.min_p),
        *([logits_process.TopKLogitsWarper(row.top_k)] if row.top_k else []),
        logits_process.TopPLogitsWarper(row.top_p),
    ):
        logits = processor(seen, logits)
    return logits.softmax(dim=-1)


def in_vllm(logits: torch.Tensor, history: list[int], row: SamplingParams) -> torch.Tensor:
    """Return the distribution that vLLM's own functions leave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of vLLM's own dependencies
        from vllm._custom_ops import apply_repetition_penalties
        from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = logits.clone()
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[0, history] = True
    penalty = torch.tensor([row.repetition_penalty])
    apply_repetition_penalties(logits, seen, torch.zeros_like(seen), penalty)
    logits /= row.temperature
    min_p = object.__new__(MinPLogitsProcessor)  # it is made of a whole engine's configuration
    min_p.min_p_count, min_p.min_p = 1, torch.tensor([[row.min_p]])
    logits = min_p.apply(logits)
    top_k = torch.tensor([row.top_k or logits.shape[1]])
    return apply_top_k_top_p_pytorch(logits, top_k, torch.tensor([row.top_p])).softmax(dim=-1)


def ours(logits: torch.Tensor, history: list[int], row: SamplingParams) -> torch.Tensor:
    """Return the distribution that a row is drawn from."""
    penalized = RepetitionPenalty([0], [row.repetition_penalty], [history], CPU).apply(logits)
    probs = (penalized / row.temperature).softmax(dim=-1)
    floors = Truncation.of([row], CPU).floors(probs)
    kept = torch.where(probs >= floors, probs, 0.0)
    return kept / kept.sum()


SHAPES = st.builds(
    lambda temperature, **shaping: replace(params(temperature=temperature), **shaping),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 1.6]),
    top_k=st.sampled_from([0, 1, 2, 20, 1024, 1100, 2900, 5000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 1e-4, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.1, 4.0]),
)


def random_logits(seed: int, num_tokens: int, spread: float) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, num_tokens, generator=generator) * spread
    history = torch.randint(num_tokens, (num_tokens // 3,), generator=generator)
    return logits, history.tolist()


@given(SHAPES, st.integers(0, 1000), st.sampled_from([30, 3000]), st.sampled_from([0.1, 1.0, 5.0]))
def test_what_is_left_is_what_transformers_processors_leave(
    row: SamplingParams, seed: int, num_tokens: int, spread: float
) -> None:
    row = replace(row, top_k=min(row.top_k, num_tokens))
    logits, history = random_logits(seed, num_tokens, spread)
    left = ours(logits, history, row)
    assert torch.allclose(left, in_turn(logits, history, row), atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(240)  # importing vLLM takes half a minute where much else runs
@settings(deadline=None)
@given(SHAPES, st.integers(0, 1000), st.sampled_from([30, 3000]), st.sampled_from([0.1, 1.0, 5.0]))
def test_what_is_left_is_what_vllm_leaves(
    row: SamplingParams, seed: int, num_tokens: int, spread: float
) -> None:
    pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
    row = replace(row, top_k=min(row.top_k, num_tokens))
    logits, history = random_logits(seed, num_tokens, spread)
    left = ours(logits, history, row)
    assert torch.allclose(left, in_vllm(logits, history, row), atol=1e-4)


@pytest.mark.parametrize(
    "shaping",
    [
        {"repetition_penalty": 1.4},
        {"min_p": 0.2, "temperature": 1.6},
        {"top_k": 5, "top_p": 0.8},
        {"repetition_penalty": 0.8, "temperature": 0.6, "top_k": 12, "top_p": 0.95, "min_p": 0.02},
    ],
    ids=str,
)
def test_draws_follow_what_is_left(shaping: dict[str, float]) -> None:
    logits, history = random_logits(0, 30, 1.5)
    rows = [replace(params(seed), **shaping) for seed in range(20_000)]
    sampler = Sampler(rows, [0] * len(rows), [history] * len(rows), CPU)
    drawn = sampler.draw(logits.expand(len(rows), -1)).token_ids
    counts = torch.bincount(drawn, minlength=30)
    expected = in_turn(logits, history, rows[0])[0] * len(rows)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi_square < 59  # 0.999 quantile, 29 degrees of freedom


def test_a_repetition_penalty_divides_a_positive_logit_and_multiplies_a_negative_one() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0, -2.0]])
    penalty = RepetitionPenalty([0], [2.0], [[0, 2, 99]], CPU)
    assert penalty.apply(logits).tolist() == [[1.5, 2.0, -2.0, -2.0]]
    penalty.see(torch.tensor([3]))
    assert penalty.apply(logits).tolist() == [[1.5, 2.0, -2.0, -4.0]]


def test_a_greedy_row_heeds_its_repetition_penalty_token_by_token() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.6, -1.0]])
    row = replace(params(temperature=0.0), repetition_penalty=2.0)
    sampler = Sampler([row, params(temperature=0.0)], [0, 0], [[1], [1]], CPU)
    drawn = [sampler.draw(logits.expand(2, -1)).token_ids.tolist() for _ in range(3)]
    # 3 and 1 (of 2) and 1.6; then 1.5, 1, 1.6; then 1.5, 1, 0.8.
    assert drawn == [[0, 0], [2, 0], [0, 0]]


def test_log_probabilities_stay_the_models_own() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.6, -1.0]])
    row = replace(
        params(logprobs=True), repetition_penalty=2.0, top_k=1, min_p=0.5, temperature=0.3
    )
    draws = Sampler([row], [0], [[0]], CPU).draw(logits)
    assert draws.token_ids.tolist() == [1]
    assert draws.logprobs is not None
    assert draws.logprobs.tolist() == pytest.approx([float(logits.log_softmax(-1)[0, 1])])


def test_draws_move_on() -> None:
    logits = torch.zeros(1, 1000)
    sampler = Sampler([params()], [0], [()], CPU)
    drawn = [int(sampler.draw(logits).token_ids) for _ in range(20)]
    assert len(set(drawn)) > 15
    assert drawn[7] == draw(logits, params(), counter=7)[0]


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6])
def test_no_temperature_is_the_most_likely_token(temperature: float) -> None:
    logits = torch.tensor([[3.0, 900.0, -900.0, 899.0]])
    assert draw(logits, *(params(s, temperature) for s in range(10))) == [1] * 10


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_not_finite_is_marked(bad: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, bad], [-torch.inf, -torch.inf], [-torch.inf, 1.0]])
    rows = [params(temperature=temperature, logprobs=True)] * 4
    draws = Sampler(rows, [0] * 4, [()] * 4, CPU).draw(logits)
    assert (draws.token_ids == NOT_FINITE).tolist() == [False, True, True, False]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    draws = Sampler([params(0, 0.0, logprobs=True)], [0], [()], CPU).draw(logits + 3)
    assert draws.logprobs is not None
    assert draws.logprobs.exp().tolist() == pytest.approx([0.5])


def test_only_allowed_tokens_are_drawn_and_logprobs_stay_the_models() -> None:
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0]).expand(60, -1)
    rows = [params(seed, 0.0 if seed < 10 else 1.0, logprobs=True) for seed in range(60)]
    allowed = torch.tensor([False, True, False, True]).expand(60, -1)
    draws = Sampler(rows, [0] * 60, [()] * 60, CPU).draw(logits, allowed)
    assert set(draws.token_ids[:10].tolist()) == {1}
    assert set(draws.token_ids[10:].tolist()) == {1, 3}
    expected = logits.log_softmax(dim=-1).gather(1, draws.token_ids[:, None])[:, 0]
    assert draws.logprobs is not None
    assert torch.allclose(draws.logprobs, expected)


def test_where_no_token_is_allowed_none_is_drawn() -> None:
    allowed = torch.tensor([[False, False], [True, True]])
    for temperature in (0.0, 1.0):
        sampler = Sampler([params(0, temperature)] * 2, [0, 0], [(), ()], CPU)
        first, second = sampler.draw(torch.zeros(2, 2), allowed).token_ids.tolist()
        assert first == NOT_FINITE
        assert second in (0, 1)


def test_a_mask_hides_no_logits_that_are_not_finite() -> None:
    logits = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0]])
    allowed = torch.tensor([[False, True], [False, True]])
    sampler = Sampler([params(0, 0.0)] * 2, [0, 0], [(), ()], CPU)
    assert sampler.draw(logits, allowed).token_ids.tolist() == [NOT_FINITE] * 2
