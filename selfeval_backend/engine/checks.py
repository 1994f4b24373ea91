"""What every engine checks before it does anything: parameters, tokens, room in the context."""

from __future__ import annotations

import itertools
import math

from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.errors import ConfigurationError, ContextLengthError

__all__ = ["check_length", "check_params", "check_token_ids"]


def check_params(params: SamplingParams) -> None:
    """Refuse parameters that are out of range.

    Raises:
        ConfigurationError: Names the first one that is.
    """
    rules = {
        "temperature": (0 <= params.temperature < math.inf, "a finite number from 0"),
        "max_tokens": (params.max_tokens >= 1, "at least 1"),
        "top_p": (0 < params.top_p <= 1, "a number in (0, 1]"),
        "seed": (0 <= params.seed < 1 << 63, "a whole number in [0, 2**63)"),
        "chunk_tokens": (params.chunk_tokens is None or params.chunk_tokens >= 1, "at least 1"),
        "checkpoints": (
            all(a < b for a, b in itertools.pairwise((0, *params.checkpoints))),
            "whole numbers from 1, in ascending order",
        ),
    }
    for field, (holds, allowed) in rules.items():
        if not holds:
            raise ConfigurationError(field, getattr(params, field), allowed)


def check_token_ids(field: str, token_ids: tuple[int, ...], *, limit: int | None = None) -> None:
    """Refuse no tokens at all, and tokens outside [0, limit).

    Raises:
        ConfigurationError: Names the field, and the first token that is no token.
    """
    if not token_ids:
        raise ConfigurationError(field, token_ids, "at least one token")
    if limit is not None and (min(token_ids) < 0 or max(token_ids) >= limit):
        bad = next(token_id for token_id in token_ids if not 0 <= token_id < limit)
        raise ConfigurationError(field, bad, f"token ids in [0, {limit})")


def check_length(num_tokens: int, num_reserved_tokens: int, *, context_length: int) -> None:
    """Refuse what does not fit into the context.

    Args:
        num_tokens: Of the sequence that is given.
        num_reserved_tokens: That may be generated after it.
        context_length: Tokens that the engine takes.

    Raises:
        ContextLengthError: It does not fit.
    """
    if num_tokens + num_reserved_tokens > context_length:
        raise ContextLengthError(
            num_prompt_tokens=num_tokens,
            num_reserved_tokens=num_reserved_tokens,
            context_length=context_length,
        )
