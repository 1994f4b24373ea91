"""The reference generator: learned from demonstrations that the project generates.

Every problem is shown twice, once solved and once missed: from the first it learns to choose, from
both to calculate honestly whatever comes of it, for the choices that lead to a miss are left out of
the loss. Later each response is cut at several places with the question "is this right?":
discrimination by contrast. In a trial without that stage, win/tie labels taught how hard a question
is and nothing about the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import IterableDataset

from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    Problem,
    demonstrate,
    generate_problems,
)
from selfeval_backend.training.branches import LabelledCut, Row
from selfeval_backend.training.trainer import Item

__all__ = ["Demonstrations"]

_POOL = 16
"""Batches that are drawn together and sorted by length, so that little is padded."""


class Demonstrations(IterableDataset[Item]):
    """Pairs of one problem: a response that solves it, one that does not.

    Args:
        chat: Of the generator.
        end_id: Token that ends a response.
        batch_size: Responses that go through the model together: pairs of near lengths follow one
            another.
        num_cuts: Labelled cuts of each response; 0: language modelling alone.
        seed: Of the problems.
    """

    def __init__(
        self, *, chat: ChatTemplate, end_id: int, batch_size: int, num_cuts: int, seed: int
    ) -> None:
        self.chat, self.end_id = chat, end_id
        self.batch_size, self.num_cuts, self.seed = batch_size, num_cuts, seed

    def __iter__(self) -> Iterator[Item]:
        """Yield pairs without end, the same ones for the same seed."""
        rng = random.Random(self.seed)
        problems = generate_problems(
            "train", seed=self.seed, unique=False, shapes=DEMONSTRATION_SHAPES
        )
        size = self.batch_size // 2
        while True:
            pairs = [self._pair(next(problems), rng) for _ in range(_POOL * size)]
            pairs.sort(key=lambda pair: len(pair[0].response_ids))
            chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
            rng.shuffle(chunks)
            for chunk in chunks:
                yield from chunk

    def _pair(self, problem: Problem, rng: random.Random) -> Item:
        return tuple(self._row(problem, rng, right) for right in (True, False))

    def _row(self, problem: Problem, rng: random.Random, right: bool) -> Row:
        shown = demonstrate(problem, rng, right=right)
        response_ids: list[int] = []
        untrained: list[int] = []
        for piece in shown.pieces:
            ids = self.chat.response_ids(piece.text)
            if not piece.is_learned:
                untrained += range(len(response_ids), len(response_ids) + len(ids))
            response_ids += ids
        cuts = self._cuts(len(response_ids), rng) if self.num_cuts else []
        return Row(
            prompt_ids=self.chat.prompt_ids([Message(role="user", content=problem.text)]),
            response_ids=(*response_ids, self.end_id),
            untrained=tuple(untrained),
            cuts=tuple(
                LabelledCut(num_tokens=n, prob_win_or_tie=float(shown.is_right)) for n in cuts
            ),
        )

    def _cuts(self, length: int, rng: random.Random) -> list[int]:
        """Late places, where a mistake can be seen, more often than early ones; and the end."""
        late = [rng.randrange(2 * length // 3, length) for _ in range(self.num_cuts - 2)]
        return [rng.randrange(1, length), *late, length][-self.num_cuts :]
