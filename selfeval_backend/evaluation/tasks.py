"""Prompts whose answers can be checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.reference.problems import generate_problems, reward

__all__ = ["MAX_REFERENCE_ITEMS", "TaskItem", "reference_items"]

MAX_REFERENCE_ITEMS = 10_000
"""Far fewer than there are held-out problems, so that finding new ones stays quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """One prompt and its verifier."""

    prompt: str
    reward: Callable[[str], float]
    """Of a response's text; high is good."""


def reference_items(n: int, *, seed: int) -> tuple[TaskItem, ...]:
    """Return held-out problems of the reference domain, the same ones for the same seed.

    Args:
        n: How many, from 1 to `MAX_REFERENCE_ITEMS`; no problem comes twice.
        seed: At least 0.

    Raises:
        ConfigurationError: `n` or `seed` is out of range.
    """
    if not 1 <= n <= MAX_REFERENCE_ITEMS:
        raise ConfigurationError("n", n, f"a whole number from 1 to {MAX_REFERENCE_ITEMS}")
    if seed < 0:
        raise ConfigurationError("seed", seed, "a whole number of at least 0")
    problems = islice(generate_problems("test", seed=seed), n)
    return tuple(TaskItem(prompt=p.text, reward=partial(reward, p)) for p in problems)
