"""Instructions as the training pipeline sees them: prompts and a reward, by import path.

The answer of a prompt is its constraints as JSON, so that the reward needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice

from selfeval_backend.instructions.instructions import (
    TEST_PARTS,
    Constraint,
    Instruction,
    Part,
    generate_instructions,
)

__all__ = ["answer_of", "constraints_of", "prompts", "score", "score_share", "test_instructions"]


def prompts(
    *, train: int, calibration: int, test: int, validation: int = 100, seed: int = 0
) -> Iterator[Mapping[str, str]]:
    """Yield instructions of every split.

    Args:
        train: To learn from.
        calibration: Of the same kinds, topics and wordings, held out: for probabilities and policy.
        test: Held out, a third of each test part: what is reported on.
        validation: That training watches: of the train part, but none of the former.
        seed: Of the generator.
    """
    learnt = islice(generate_instructions("train", seed=seed), train + validation)
    for place, instruction in enumerate(learnt):
        yield _row(instruction, "train" if place < train else "validation", "train")
    for instruction in islice(generate_instructions("calibration", seed=seed), calibration):
        yield _row(instruction, "calibration", "calibration")
    for part, instruction in islice(test_instructions(seed=seed), test):
        yield _row(instruction, "test", part)


def test_instructions(*, seed: int) -> Iterator[tuple[Part, Instruction]]:
    """Yield (test part, instruction), the parts in turn; it ends where one of them ends."""
    generators = [generate_instructions(part, seed=seed) for part in TEST_PARTS]
    for instructions in zip(*generators, strict=False):
        yield from zip(TEST_PARTS, instructions, strict=True)


def _row(instruction: Instruction, split: str, part: Part) -> dict[str, str]:
    answer = answer_of(instruction, part)
    return {"prompt": instruction.prompt, "answer": answer, "split": split}


def answer_of(instruction: Instruction, part: Part) -> str:
    """Return an instruction's constraints as JSON, its part and kind beside them."""
    asked = [[c.check, list(c.words), c.number] for c in instruction.constraints]
    return json.dumps({"part": part, "kind": instruction.kind, "constraints": asked})


def constraints_of(answer: str) -> tuple[Constraint, ...]:
    """Return the constraints that `answer_of` wrote."""
    asked = json.loads(answer)["constraints"]
    return tuple(
        Constraint(check=check, words=tuple(words), number=number) for check, words, number in asked
    )


def score(prompt: str, response: str, answer: str) -> float:
    """Return 1.0 for a response that keeps to every constraint, else 0.0."""
    return float(score_share(prompt, response, answer) == 1.0)


def score_share(prompt: str, response: str, answer: str) -> float:
    """Return the share of the constraints that a response keeps to."""
    asked = constraints_of(answer)
    return sum(constraint.is_kept(response) for constraint in asked) / len(asked)
