"""vLLM's own parsers, of tools and of reasoning: found by name, and made for a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from selfeval_backend.errors import ConfigurationError

__all__ = ["made_for"]


def made_for(
    tokenizer: Any,
    *,
    field: str,
    name: str,
    find: Callable[[str], Callable[[Any], Any]],
    registered: Callable[[], Iterable[str]],
    ours: str = "",
) -> Any:
    """Return one of vLLM's parsers.

    Args:
        tokenizer: The model's.
        field: What named it, for errors.
        name: Its name in vLLM.
        find: vLLM's: from a name to a class.
        registered: vLLM's: all names.
        ours: Names beside vLLM's that the field takes, for errors.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the tokenizer.
    """
    try:
        make = find(name)
    except KeyError as error:
        known = f"{ours}one of vLLM's: {', '.join(registered())}"
        raise ConfigurationError(field, name, known) from error
    try:
        return make(tokenizer)
    # Whatever a parser misses in a tokenizer that is not of its family.
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            field, name, "one for this model", remedy=f"vLLM says: {error}"
        ) from error
