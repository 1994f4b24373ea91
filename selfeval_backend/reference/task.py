"""The reference domain as the training pipeline sees it: prompts and a reward, by import path.

The answer of a prompt is its puzzles as text, so that the reward needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import get_args

from selfeval_backend.reference.problems import (
    TASK_SHAPES,
    Problem,
    Puzzle,
    Split,
    generate_problems,
    reward,
)

__all__ = ["answer_of", "prompts", "score", "score_less_length"]

_COST_OF_A_WORD = 0.003


def prompts(
    *,
    train: int,
    calibration: int,
    test: int,
    validation: int = 100,
    seed: int = 0,
    shapes: Sequence[Sequence[int]] = (),
) -> Iterator[Mapping[str, str]]:
    """Yield problems of every split, told apart by a hash of their puzzles.

    Args:
        train: Problems to learn from.
        calibration: Held-out problems that probabilities and policy are fitted on.
        test: Held-out problems that are reported on.
        validation: Problems that training watches: of the train split, but none of the former.
        seed: Of the generator.
        shapes: How many numbers each puzzle of a problem has, equally often; none: the task's mix.
    """
    weights = {tuple(shape): 1 for shape in shapes} or TASK_SHAPES
    counts = {"train": train + validation, "calibration": calibration, "test": test}
    for split in get_args(Split):
        problems = generate_problems(split, seed=seed, shapes=weights)
        for place, problem in enumerate(islice(problems, counts[split])):
            watched = split == "train" and place >= train
            yield {
                "prompt": problem.text,
                "answer": answer_of(problem),
                "split": "validation" if watched else split,
            }


def answer_of(problem: Problem) -> str:
    """Return a problem's puzzles as text: what `score` takes."""
    return "; ".join(f"{','.join(map(str, p.numbers))}={p.target}" for p in problem.puzzles)


def score(prompt: str, response: str, answer: str) -> float:
    """Return 1.0 where a response solves every puzzle of its problem, else 0.0."""
    puzzles = []
    for part in answer.split("; "):
        numbers, _, target = part.partition("=")
        puzzles.append(Puzzle(numbers=tuple(map(int, numbers.split(","))), target=int(target)))
    return reward(Problem(puzzles=tuple(puzzles), text=prompt), response)


def score_less_length(prompt: str, response: str, answer: str) -> float:
    """Return what `score` does, less 0.003 for every word: a continuous reward.

    A right response is always worth more than a wrong one; of two right ones the shorter is worth
    more.
    """
    return score(prompt, response, answer) - _COST_OF_A_WORD * len(response.split())
