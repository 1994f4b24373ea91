"""One thing that was looked at: what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfeval_backend.errors import AICError, ConfigurationError, EngineError

__all__ = ["Check", "Section", "Status", "failed", "failed_by", "not_checked", "ok", "warning"]

Status = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Of the thing; the same in every report."""
    status: Status
    found: str
    """What was seen, as one line."""
    remedy: str | None = None
    """What to do; always there on a warning and a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Checks of one subject."""

    title: str
    checks: tuple[Check, ...]


def ok(name: str, found: str) -> Check:
    """Return that all is well."""
    return Check(name=name, status="ok", found=found)


def warning(name: str, found: str, *, remedy: str) -> Check:
    """Return that something works, but should be improved."""
    return Check(name=name, status="warning", found=found, remedy=remedy)


def failed(name: str, found: str, *, remedy: str) -> Check:
    """Return that something does not work."""
    return Check(name=name, status="failed", found=found, remedy=remedy)


def not_checked(name: str, reason: str, *, remedy: str | None = None) -> Check:
    """Return that nothing can be said, and why."""
    return Check(name=name, status="not checked", found=reason, remedy=remedy)


def failed_by(name: str, error: AICError, *, remedy: str) -> Check:
    """Return what an error says: its own remedy, if it has one, else `remedy`."""
    own = None
    if isinstance(error, ConfigurationError):
        own = error.remedy
    elif isinstance(error, EngineError):
        own = error.hint
    found = " ".join(str(error).split())
    if own:
        found = found.removesuffix(own).rstrip()
    return failed(name, found, remedy=own or remedy)
