"""Another distribution of the reference domain, for what the method is worth away from home.

Three kinds, a third of the problems each; `prompt_id` begins with the kind:

* ``wording``: the task's own shapes and numbers, with a verb before every puzzle and two wordings
  in one prompt, as no prompt of training had them;
* ``numbers``: the task's own shapes and words, with one number from 26 to 30 in the first puzzle,
  where training went to 25;
* ``longer``: chains of puzzles that are longer than any that was demonstrated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from selfeval_backend.evaluation.tasks.reference import check_request, item_of
from selfeval_backend.reference.problems import TASK_SHAPES, Problem, Puzzle, Shape
from selfeval_backend.samples.tasks import TaskItem

__all__ = ["SHIFTED_KINDS", "ShiftedTask"]

_LARGEST_TRAINED = 25
_LONGER_SHAPES: Mapping[Shape, int] = {(3, 3, 2): 1, (3, 2, 3): 1, (4, 3, 3): 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    shapes: Mapping[Shape, int]
    largest_number: int | None
    """Of the first puzzle; None: as in training."""
    wording: Callable[[Sequence[Puzzle]], str]


def _in_training_words(puzzles: Sequence[Puzzle]) -> str:
    return f"Use {', then '.join(f'{_listed(p)} to make {p.target}' for p in puzzles)}."


def _in_other_words(puzzles: Sequence[Puzzle]) -> str:
    forms = (
        lambda p: f"use {_listed(p)} to make {p.target}",
        lambda p: f"make {p.target} from {_listed(p)}",
    )
    parts = [forms[place % 2](puzzle) for place, puzzle in enumerate(puzzles)]
    return f"{', then '.join(parts).capitalize()}."


def _listed(puzzle: Puzzle) -> str:
    return f"{', '.join(map(str, puzzle.numbers[:-1]))} and {puzzle.numbers[-1]}"


_KINDS: Mapping[str, _Kind] = {
    "wording": _Kind(shapes=TASK_SHAPES, largest_number=None, wording=_in_other_words),
    "numbers": _Kind(shapes=TASK_SHAPES, largest_number=30, wording=_in_training_words),
    "longer": _Kind(shapes=_LONGER_SHAPES, largest_number=None, wording=_in_training_words),
}
SHIFTED_KINDS = tuple(_KINDS)
"""What is shifted: the beginning of each `prompt_id`."""


class ShiftedTask:
    """Problems of a distribution that the reference model was not trained for.

    Puzzles are of the test split, so that none was trained on in any wording.

    Args:
        n: How many, from 1 to `MAX_REFERENCE_ITEMS`; no problem comes twice.
        seed: At least 0.

    Raises:
        ConfigurationError: `n` or `seed` is out of range.
    """

    name = "shifted"

    def __init__(self, n: int, *, seed: int) -> None:
        check_request(n, seed)
        problems = _problems(seed)
        self.items: tuple[TaskItem, ...] = tuple(
            item_of(problem, prompt_id=f"{kind}-{seed}-{place}")
            for place, (kind, problem) in zip(range(n), problems, strict=False)
        )


def _problems(seed: int) -> Iterator[tuple[str, Problem]]:
    rng = random.Random(f"shifted/{seed}")
    seen: set[str] = set()
    while True:
        for name, kind in _KINDS.items():
            problem = _draw(rng, kind)
            while problem.key in seen:
                problem = _draw(rng, kind)
            seen.add(problem.key)
            yield name, problem


def _draw(rng: random.Random, kind: _Kind) -> Problem:
    shape = rng.choices(list(kind.shapes), list(kind.shapes.values()))[0]
    puzzles = tuple(
        _draw_puzzle(rng, size, None if place else kind.largest_number)
        for place, size in enumerate(shape)
    )
    return Problem(puzzles=puzzles, text=kind.wording(puzzles))


def _draw_puzzle(rng: random.Random, size: int, largest_number: int | None) -> Puzzle:
    while True:
        numbers = rng.sample(range(1, _LARGEST_TRAINED + 1), size)
        if largest_number is not None:
            numbers[rng.randrange(size)] = rng.randint(_LARGEST_TRAINED + 1, largest_number)
        target = sum(n if rng.random() < 0.5 else -n for n in numbers)
        puzzle = Puzzle(numbers=tuple(numbers), target=target)
        if target > 0 and puzzle.split == "test":
            return puzzle
