"""The reference generator: learned from demonstrations that the project generates.

Half of the demonstrations reach the target and half do not: from the first ones it learns to plan,
from both to calculate honestly whatever comes of it, for the plan of a demonstration that misses is
left out of the loss. Later every problem is shown twice, once reached and once missed, each cut at
several places with the question "is this right?": discrimination by contrast. In a trial
without that stage, win/tie labels taught how hard a question is and nothing about the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.reference.problems import (
    DEMONSTRATION_SIZES,
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
    """Batches of pairs of one problem: a response that reaches the target, one that does not."""

    chat: ChatTemplate
    end_id: int
    pad_id: int
    question_ids: tuple[int, ...]
    batch_size: int
    num_cuts: int
    """Labelled cuts of each response; 0: language modelling alone."""
    distances: bool
    """Whether totals are written as the target and a distance."""
    seed: int

    def __iter__(self) -> Iterator[BranchBatch]:
        """Yield batches without end, the same ones for the same seed."""
        rng = random.Random(self.seed)
        problems = generate_problems(
            "train", seed=self.seed, unique=False, sizes=DEMONSTRATION_SIZES
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
        return [self._row(problem, rng, reach) for reach in (True, False)]

    def _row(self, problem: Problem, rng: random.Random, reach: bool) -> Row:
        text, reached = demonstrate(problem, rng, reach=reach, distances=self.distances)
        plan, _, working = text.partition("\n")
        plan_ids = self.chat.response_ids(plan)
        response_ids = plan_ids + self.chat.response_ids("\n" + working)
        cuts = self._cuts(len(response_ids), rng) if self.num_cuts else []
        return Row(
            prompt_ids=self.chat.prompt_ids([Message(role="user", content=problem.text)]),
            response_ids=(*response_ids, self.end_id),
            num_untrained=0 if reached else len(plan_ids),
            cuts=tuple(LabelledCut(num_tokens=n, prob_win_or_tie=float(reached)) for n in cuts),
        )

    def _cuts(self, length: int, rng: random.Random) -> list[int]:
        """Late places, where a mistake can be seen, more often than early ones; and the end."""
        late = [rng.randrange(2 * length // 3, length) for _ in range(self.num_cuts - 2)]
        return [rng.randrange(1, length), *late, length][-self.num_cuts :]
