"""Instructions with checks: held-out prompts for small chat models, in three parts."""

from __future__ import annotations

from itertools import islice

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.importing import source_digest
from selfeval_backend.instructions import Instruction
from selfeval_backend.instructions.checks import plain_words
from selfeval_backend.instructions.task import answer_of, score, test_instructions
from selfeval_backend.samples.tasks import TaskItem, no_answer
from selfeval_backend.scorers import ScorerIdentity

__all__ = ["MAX_INSTRUCTIONS", "InstructionsTask"]

MAX_INSTRUCTIONS = 3_000
"""Fewer than the smallest part has prompts for."""


class InstructionsTask:
    """Held-out instructions, a third of each test part; the same ones for the same seed.

    `prompt_id` begins with part and kind: ``unseen_wording/bullets/test-0-17``.

    Args:
        n: How many, from 1 to `MAX_INSTRUCTIONS`; no prompt comes twice.
        seed: At least 0.

    Raises:
        ConfigurationError: `n` or `seed` is out of range.
    """

    name = "instructions"

    def __init__(self, n: int, *, seed: int) -> None:
        if not 1 <= n <= MAX_INSTRUCTIONS:
            raise ConfigurationError("n", n, f"a whole number from 1 to {MAX_INSTRUCTIONS}")
        if seed < 0:
            raise ConfigurationError("seed", seed, "a whole number of at least 0")
        identity = ScorerIdentity(
            name="instructions", digest=source_digest(f"{score.__module__}:score")
        )
        self.items = tuple(
            TaskItem(
                prompt=instruction.prompt,
                reward=instruction.reward,
                answer=_short_answer if _is_question(instruction) else no_answer,
                prompt_id=f"{part}/{instruction.kind}/test-{seed}-{place}",
                scorer=identity,
                basis=answer_of(instruction, part),
            )
            for place, (part, instruction) in enumerate(islice(test_instructions(seed=seed), n))
        )


def _is_question(instruction: Instruction) -> bool:
    return instruction.constraints[0].check == "answer"


def _short_answer(response: str) -> str | None:
    """Return what a short answer comes to, whatever its case and punctuation."""
    return " ".join(plain_words(response)) or None
