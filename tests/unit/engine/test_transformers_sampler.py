"""Drawing tokens: the right distribution, and the same draw whatever the batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")

from selfeval_backend.engine.base import SamplingParams  # noqa: E402
from selfeval_backend.engine.transformers.sampler import (  # noqa: E402
    NOT_FINITE,
    Sampler,
    uniform,
)

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
    logits = torch.randn(1, 50)
    rows = [params(s, t, p) for s in range(20) for t in (0.0, 0.5, 1.0) for p in (0.7, 1.0)]
    together = draw(logits, *rows, counter=3)
    assert together == [draw(logits, each, counter=3)[0] for each in rows]


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
