"""The reference domain as the training pipeline sees it: prompts and a reward, by import path.

The answer of a prompt is its puzzles as text, so that the reward needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import get_args

from selfeval_backend.reference.problems import (
    Problem,
    Puzzle,
    Split,
    generate_problems,
    reward,
)

__all__ = ["prompts", "score"]


def prompts(
    *, train: int, calibration: int, test: int, validation: int = 100, seed: int = 0
) -> Iterator[Mapping[str, str]]:
    """Yield problems of every split, told apart by a hash of their puzzles.

    Args:
        train: Problems to learn from.
        calibration: Held-out problems that probabilities and policy are fitted on.
        test: Held-out problems that are reported on.
        validation: Problems that training watches: of the train split, but none of the former.
        seed: Of the generator.
    """
    counts = {"train": train + validation, "calibration": calibration, "test": test}
    for split in get_args(Split):
        for place, problem in enumerate(islice(generate_problems(split, seed=seed), counts[split])):
            watched = split == "train" and place >= train
            yield {
                "prompt": problem.text,
                "answer": "; ".join(
                    f"{','.join(map(str, p.numbers))}={p.target}" for p in problem.puzzles
                ),
                "split": "validation" if watched else split,
            }


def score(prompt: str, response: str, answer: str) -> float:
    """Return 1.0 where a response solves every puzzle of its problem, else 0.0."""
    puzzles = []
    for part in answer.split("; "):
        numbers, _, target = part.partition("=")
        puzzles.append(Puzzle(numbers=tuple(map(int, numbers.split(","))), target=int(target)))
    return reward(Problem(puzzles=tuple(puzzles), text=prompt), response)
