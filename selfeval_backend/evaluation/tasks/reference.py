"""The reference domain: held-out problems of the kind that the reference model was trained for."""

from __future__ import annotations

from functools import partial
from itertools import islice

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.importing import source_digest
from selfeval_backend.reference.problems import (
    Problem,
    extract_answer,
    generate_problems,
    reward,
)
from selfeval_backend.samples.tasks import TaskItem
from selfeval_backend.scorers import ScorerIdentity

__all__ = ["MAX_REFERENCE_ITEMS", "ReferenceTask", "check_request", "item_of", "reference_items"]

MAX_REFERENCE_ITEMS = 10_000
"""Far fewer than there are held-out problems, so that finding new ones stays quick."""


class ReferenceTask:
    """Held-out problems of the reference domain, the same ones for the same seed.

    Args:
        n: How many, from 1 to `MAX_REFERENCE_ITEMS`; no problem comes twice.
        seed: At least 0.

    Raises:
        ConfigurationError: `n` or `seed` is out of range.
    """

    name = "reference"

    def __init__(self, n: int, *, seed: int) -> None:
        check_request(n, seed)
        problems = islice(generate_problems("test", seed=seed), n)
        self.items = tuple(
            item_of(problem, prompt_id=f"test-{seed}-{place}")
            for place, problem in enumerate(problems)
        )


def reference_items(n: int, *, seed: int) -> tuple[TaskItem, ...]:
    """Return the items of `ReferenceTask`; arguments and errors are the same."""
    return ReferenceTask(n, seed=seed).items


def check_request(n: int, seed: int) -> None:
    """Refuse what no generator of problems can give.

    Raises:
        ConfigurationError: `n` or `seed` is out of range.
    """
    if not 1 <= n <= MAX_REFERENCE_ITEMS:
        raise ConfigurationError("n", n, f"a whole number from 1 to {MAX_REFERENCE_ITEMS}")
    if seed < 0:
        raise ConfigurationError("seed", seed, "a whole number of at least 0")


def item_of(problem: Problem, *, prompt_id: str) -> TaskItem:
    """Return a problem as a prompt with its verifier."""
    return TaskItem(
        prompt=problem.text,
        reward=partial(reward, problem),
        answer=extract_answer,
        prompt_id=prompt_id,
        scorer=ScorerIdentity(name="puzzles", digest=source_digest(f"{reward.__module__}:reward")),
        basis=repr(problem.puzzles),
    )
