"""From a scorer's name to a scorer."""

from __future__ import annotations

import math

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.scorers.base import Scorer
from selfeval_backend.scorers.kinds import make_judgement
from selfeval_backend.scorers.local import LocalScorer
from selfeval_backend.scorers.pool import ScorerPool
from selfeval_backend.scorers.spec import ScorerSpec

__all__ = ["load_scorer"]


def load_scorer(
    spec: ScorerSpec,
    *,
    field: str,
    with_rows: bool,
    timeout_s: float | None = None,
    workers: int | None = None,
) -> Scorer:
    """Return a scorer, ready to be called; what is not ours runs in processes of its own.

    Args:
        spec: Which.
        field: The setting that names it, for errors.
        with_rows: Whether a function is given ``(response, row)``; else ``(prompt, response,
            answer)``.
        timeout_s: Of one response, where it runs in a process of its own; None: 5 s, of a function
            60 s.
        workers: Most processes; None: one a core, eight at most.

    Raises:
        ConfigurationError: The function cannot be imported, or a value is out of range.
        MissingDependencyError: math-verify is not installed.
    """
    if timeout_s is not None and not (timeout_s > 0.0 and math.isfinite(timeout_s)):
        raise ConfigurationError("scorer_timeout", timeout_s, "seconds, more than 0")
    if workers is not None and workers < 1:
        raise ConfigurationError("scorer_workers", workers, "a whole number of at least 1")
    if not spec.is_foreign:
        return LocalScorer(make_judgement(spec, field=field, with_rows=with_rows))
    pool = ScorerPool(spec, field=field, with_rows=with_rows, timeout_s=timeout_s, workers=workers)
    if spec.kind == "function":  # refused here, before any token
        pool.start()
    return pool
