"""Draw the next token of many rows at once, each from its own stream of random numbers.

Randomness is counter-based: the number that picks a row's n-th token is a hash of the row's seed
and n, so a sample does not depend on what else is in the batch, nor on when it was admitted.

Logits are shaped in vLLM's order: grammar, repetition penalty, temperature, then min_p, top_k and
top_p. Source: `vllm.v1.sample.sampler.Sampler`, 0.32.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.transformers.penalties import RepetitionPenalty
from selfeval_backend.engine.transformers.truncation import Truncation

__all__ = ["NOT_FINITE", "Draws", "Sampler", "uniform"]

NOT_FINITE = -1
"""In place of a token where the logits hold a NaN or an infinity that may not be, or where no token
is allowed."""

_LEAST_TEMPERATURE = 1e-6
"""Below it, dividing by it would overflow to infinity; at it, a draw is greedy all but in name."""

# splitmix64, as signed 64-bit integers: torch's int64 wraps, which is what the hash wants.
# Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What was drawn."""

    token_ids: torch.Tensor  # [B], int64; NOT_FINITE where nothing could be
    logprobs: torch.Tensor | None  # [B], float32, of the raw logits


class Sampler:
    """How a fixed set of rows is sampled; made anew whenever the set changes.

    Args:
        params: One for each row, in the order of the logits.
        counters: How many tokens each row has drawn already.
        histories: Tokens of each row: of its prompt, and drawn already.
        device: Where the logits are.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        counters: Sequence[int],
        histories: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        temperatures = [p.temperature for p in params]
        divisors = [max(t, _LEAST_TEMPERATURE) for t in temperatures]
        self._temperatures = torch.tensor(divisors, device=device)[:, None]
        greedy = torch.tensor([t == 0 for t in temperatures], device=device)
        self._greedy = greedy if bool(greedy.any()) else None
        self._all_greedy = bool(greedy.all())
        self._streams = _splitmix64(torch.tensor([p.seed for p in params], device=device))
        self._counters = torch.tensor(list(counters), device=device)
        self._truncated, self._truncation = _truncation(params, device)
        self._repetition = _repetition(params, histories, device)
        self._wants_logprobs = any(p.logprobs for p in params)

    def draw(self, logits: torch.Tensor, allowed: torch.Tensor | None = None) -> Draws:
        """Draw one token for each row, and move the counters on.

        Args:
            logits: [B, V], any floating type.
            allowed: [B, V], bool: tokens that may be drawn; None: all of them. Log-probabilities
                are those without it.
        """
        logits = logits.float()
        highest, token_ids = logits.max(dim=-1)  # a NaN anywhere in a row is its maximum
        choices = logits
        if allowed is not None:
            choices = choices.masked_fill(~allowed, -torch.inf)
        if self._repetition is not None:
            choices = self._repetition.apply(choices)
        if choices is not logits:
            of_choices, token_ids = choices.max(dim=-1)
            highest = torch.where(highest.isfinite(), of_choices, highest)
        if not self._all_greedy:
            sampled = self._sample(choices)
            greedy = self._greedy
            token_ids = sampled if greedy is None else torch.where(greedy, token_ids, sampled)
        if self._repetition is not None:
            self._repetition.see(token_ids)
        self._counters += 1
        logprobs = None
        if self._wants_logprobs:
            chosen = logits.gather(1, token_ids[:, None])[:, 0]
            logprobs = chosen - logits.logsumexp(dim=-1)
        token_ids = torch.where(highest.isfinite(), token_ids, NOT_FINITE)
        return Draws(token_ids=token_ids, logprobs=logprobs)

    def _sample(self, logits: torch.Tensor) -> torch.Tensor:
        probs = torch.softmax(logits / self._temperatures, dim=-1)
        picks = uniform(self._streams, self._counters)[:, None]  # [B, 1]
        if self._truncation is not None:
            # Only these rows are looked at: what a row draws must not depend on its neighbours.
            floors = torch.zeros_like(picks)
            floors[self._truncated] = self._truncation.floors(probs[self._truncated])
            probs = torch.where(probs >= floors, probs, 0.0)
        return _invert(probs.cumsum(dim=-1), picks)


def _truncation(
    params: Sequence[SamplingParams], device: torch.device
) -> tuple[torch.Tensor, Truncation | None]:
    """Return the rows that do not draw from all tokens, and their limits."""
    rows = [row for row, p in enumerate(params) if p.temperature > 0 and Truncation.applies(p)]
    of_rows = Truncation.of([params[row] for row in rows], device) if rows else None
    return torch.tensor(rows, dtype=torch.long, device=device), of_rows


def _repetition(
    params: Sequence[SamplingParams], histories: Sequence[Sequence[int]], device: torch.device
) -> RepetitionPenalty | None:
    rows = [row for row, p in enumerate(params) if p.repetition_penalty != 1]
    if not rows:
        return None
    penalties = [params[row].repetition_penalty for row in rows]
    return RepetitionPenalty(rows, penalties, [histories[row] for row in rows], device)


def uniform(streams: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Return one number in [0, 1) for each (stream, counter), of 24 bits.

    Args:
        streams: Hashed seeds, int64.
        counters: Of the same shape.
    """
    bits = _splitmix64(streams + counters * _GAMMA)
    return _shift_right(bits, 40).float() * 2.0**-24


def _invert(cumulative: torch.Tensor, picks: torch.Tensor) -> torch.Tensor:
    """Return the first index whose cumulative probability exceeds the pick.

    Scaling by the last entry takes rounding out of the sum; staying below it keeps a token of
    probability zero from being picked.
    """
    total = cumulative[:, -1:]
    targets = torch.minimum(picks * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(
        max=cumulative.shape[-1] - 1
    )


def _splitmix64(x: torch.Tensor) -> torch.Tensor:
    z = x + _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift as if unsigned: torch's shift of a negative number copies the sign in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
