"""How scorers are named: one spelling for `aic eval` and for recipes."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.files import read_text
from selfeval_backend.hashing import digest_of
from selfeval_backend.importing import is_own, source_digest

__all__ = ["ScorerIdentity", "ScorerKind", "ScorerSpec", "identify", "read_spec"]

ScorerKind = Literal["exact", "regex", "math", "function"]

_LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy")
"""What decides the rewards of "math"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSpec:
    """A scorer by name.

    * ``exact``: the response is the reference, up to case and space around it;
    * ``regex:PATTERN``: what the pattern's first group (or the whole match) finds last in the
      response is the reference, up to space; numbers are compared as numbers
      (`selfeval_backend.scorers.numbers`);
    * ``math``: the same number, or math-verify finds the same value or expression;
    * ``package.module:function``: any finite number. Of prompts in a file of `aic eval` it takes
      ``(response, row)``, with the row as it stands there; in a recipe ``(prompt, response,
      answer)``. It is imported and run: point at code that you trust.
    """

    kind: ScorerKind
    detail: str = ""
    """The pattern, or the function's import path."""

    @property
    def name(self) -> str:
        """How it is spelt."""
        return {"regex": f"regex:{self.detail}", "function": self.detail}.get(self.kind, self.kind)

    @property
    def needs_answer(self) -> bool:
        """Whether it compares with a reference answer."""
        return self.kind != "function"

    @property
    def is_foreign(self) -> bool:
        """Whether it may run for ever, or worse: it then runs where it can be killed.

        A pattern may backtrack for years, and holds the interpreter's lock meanwhile; so do
        powers of powers in math-verify. A function of this project is known to end.
        """
        return self.kind != "exact" and not (self.kind == "function" and is_own(self.detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerIdentity:
    """What a changed scorer is told by."""

    name: str
    """For people: how it is spelt, with the version of its library."""
    digest: str
    """Of everything that decides its rewards: its name, source and versions."""
    spec: str | None = None
    """How it is spelt, where it is one of `ScorerSpec`."""


def read_spec(field: str, text: str, *, extra: str = "eval") -> ScorerSpec:
    """Read a scorer's name.

    Args:
        field: The setting that names it, for errors.
        text: See `ScorerSpec`.
        extra: What installs the library of "math".

    Raises:
        ConfigurationError: There is no such scorer, or its pattern is none.
        MissingDependencyError: math-verify is not installed.
    """
    kind, _, rest = text.partition(":")
    if text == "exact":
        return ScorerSpec(kind="exact")
    if text == "math":
        if importlib.util.find_spec("math_verify") is None:
            raise MissingDependencyError("math-verify", extra=extra)
        return ScorerSpec(kind="math")
    if kind == "regex" and rest:
        try:
            re.compile(rest)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigurationError(field, text, f"a regular expression ({error})") from error
        return ScorerSpec(kind="regex", detail=rest)
    if re.fullmatch(r"[\w.]+:[A-Za-z_][\w.]*", text):
        return ScorerSpec(kind="function", detail=text)
    raise ConfigurationError(
        field, text, '"exact", "regex:PATTERN", "math" or "package.module:function"'
    )


def identify(spec: ScorerSpec) -> ScorerIdentity:
    """Return what a changed scorer is told by; nothing of it is run."""
    if spec.kind == "function":
        source = source_digest(spec.detail)
        return ScorerIdentity(
            name=f"{spec.name} (source {source[:8]})",
            digest=digest_of([spec.name, source]),
            spec=spec.name,
        )
    name, versions = spec.name, []
    if spec.kind == "math":
        versions = [_version(library) for library in _LIBRARIES]
        name = f"math (math-verify {versions[0]}, sympy {versions[-1]})"
    return ScorerIdentity(
        name=name, digest=digest_of([spec.name, versions, _own_source()]), spec=spec.name
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _own_source() -> str:
    """Hash what reads numbers and compares answers here: an upgrade may change it."""
    folder = Path(__file__).parent
    return digest_of([read_text(folder / f"{name}.py") for name in ("kinds", "numbers")])
