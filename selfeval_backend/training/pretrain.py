"""The reference generator: learned from demonstrations that the project generates.

Every problem is shown twice, once solved and once missed: from the first it learns to choose, from
both to calculate honestly whatever comes of it, for the choices that lead to a miss are left out of
the loss. Later each response is cut at several places with the question "is this right?":
discrimination by contrast. In a trial without that stage, win/tie labels taught how hard a question
is and nothing about the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    Problem,
    demonstrate,
    generate_problems,
)
from selfeval_backend.training.branches import BranchBatch, LabelledCut, Row, collate

__all__ = ["Demonstrations"]

_POOL = 16
"""Batches that are drawn together and sorted by length, so that little is padded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """Batches of pairs of one problem: a response that solves it, one that does not."""

    chat: ChatTemplate
    end_id: int
    pad_id: int
    question_ids: tuple[int, ...]
    batch_size: int
    num_cuts: int
    """Labelled cuts of each response; 0: language modelling alone."""
    seed: int

    def __iter__(self) -> Iterator[BranchBatch]:
        """Yield batches without end, the same ones for the same seed."""
        rng = random.Random(self.seed)
        problems = generate_problems(
            "train", seed=self.seed, unique=False, shapes=DEMONSTRATION_SHAPES
        )
        while True:
            pairs = [self._pair(next(problems), rng) for _ in range(_POOL * self.batch_size // 2)]
            pairs.sort(key=lambda pair: len(pair[0].response_ids))
            rows = [row for pair in pairs for row in pair]
            chunks = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
            rng.shuffle(chunks)
            for chunk in chunks:
                yield collate(chunk, self.question_ids, pad_id=self.pad_id)

    def _pair(self, problem: Problem, rng: random.Random) -> Sequence[Row]:
        return [self._row(problem, rng, right) for right in (True, False)]

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
