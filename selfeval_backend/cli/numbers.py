"""Numbers with commas between them, as options have them."""

from __future__ import annotations

from selfeval_backend.errors import ConfigurationError

__all__ = ["numbers", "whole_numbers"]


def whole_numbers(field: str, given: str | None) -> tuple[int, ...] | None:
    """Read ``16,32`` or ``none``; None where nothing was given.

    Raises:
        ConfigurationError: It holds anything else.
    """
    if given is None:
        return None
    if given.strip().lower() == "none":
        return ()
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError:
        raise ConfigurationError(
            field, given, 'whole numbers in ascending order, or "none"'
        ) from None


def numbers(field: str, given: str, allowed: str, *, remedy: str = "") -> tuple[float, ...]:
    """Read ``0.5`` or ``0.5,0.25``.

    Raises:
        ConfigurationError: It holds anything else.
    """
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise ConfigurationError(field, given, allowed, remedy=remedy) from None
