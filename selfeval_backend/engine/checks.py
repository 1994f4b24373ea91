"""What every engine checks before it does anything: parameters, tokens, room in the context."""

from __future__ import annotations

import itertools
import json
import math

from selfeval_backend.engine.base import Capabilities, Grammar, SamplingParams
from selfeval_backend.errors import ConfigurationError, ContextLengthError

__all__ = [
    "check_grammar",
    "check_length",
    "check_params",
    "check_token_ids",
    "refused_grammar",
]


def check_params(params: SamplingParams, capabilities: Capabilities) -> None:
    """Refuse parameters that are out of range, or more than an engine can do.

    Raises:
        ConfigurationError: Names the first one that is.
    """
    rules = {
        "temperature": (0 <= params.temperature < math.inf, "a finite number of at least 0"),
        "max_tokens": (params.max_tokens >= 1, "at least 1"),
        "top_p": (0 < params.top_p <= 1, "a number in (0, 1]"),
        "top_k": (params.top_k >= 0, "a whole number of at least 0"),
        "min_p": (0 <= params.min_p <= 1, "a number in [0, 1]"),
        "repetition_penalty": (0 < params.repetition_penalty < math.inf, "a finite number above 0"),
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
    if params.min_p > 0 and not capabilities.takes_min_p:
        raise ConfigurationError(
            "min_p",
            params.min_p,
            f"0: the engine {capabilities.name!r} refuses it, as vLLM does with speculative "
            "decoding",
            remedy="Set min_p=0, or run the model without speculative decoding.",
        )
    if params.grammar is not None:
        check_grammar(params.grammar, capabilities)
        if not params.stop_token_ids:
            raise ConfigurationError(
                "stop_token_ids", (), "at least one with a grammar: what ends the text"
            )


def check_grammar(grammar: Grammar, capabilities: Capabilities) -> None:
    """Refuse a grammar that an engine cannot follow, as far as it can be told without one.

    Raises:
        ConfigurationError: The engine follows none, or it is no JSON schema.
    """
    if not capabilities.takes_grammars:
        raise ConfigurationError(
            "grammar",
            grammar.json_schema,
            f"none: the engine {capabilities.name!r} cannot draw samples under one",
            remedy="Ask for text and parse it, or choose another engine."
            if not capabilities.resubmits
            else "It would begin anew at every checkpoint: use a server that streams token ids.",
        )
    try:
        schema = json.loads(grammar.json_schema)
    except ValueError as error:
        raise refused_grammar(grammar, f"it is no JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise refused_grammar(grammar, "it is neither an object nor a boolean")


def refused_grammar(grammar: Grammar, reason: str) -> ConfigurationError:
    """Return the error of a grammar that an engine cannot follow."""
    return ConfigurationError(
        "grammar",
        grammar.json_schema,
        "a JSON schema that samples can be drawn under",
        remedy=f"Use a simpler one; the engine says: {' '.join(reason.split())[:400]}",
    )


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
