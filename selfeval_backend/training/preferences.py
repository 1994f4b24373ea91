"""From rewards to what the self-evaluation should say.

Source: arXiv 2410.02725, section 3: samples of one prompt are paired; the better one wins, near
equals tie, and a response is labelled by whether it wins or ties. We take the mean over all pairs
of a response instead of one random pair: the same expectation, with less noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfeval_backend.rollouts import Rollout, RolloutSample, win_or_tie_targets
from selfeval_backend.training.branches import BranchBatch, LabelledCut, Row, collate

__all__ = ["ContrastBatches", "PreferenceBatches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batches:
    rollouts: Sequence[Rollout]
    question_ids: tuple[int, ...]
    end_id: int
    pad_id: int
    batch_size: int
    num_cuts: int
    """Prefixes of each response, the whole one among them."""
    seed: int

    def _row(
        self, rollout: Rollout, sample: RolloutSample, target: float, rng: random.Random
    ) -> Row:
        length = len(sample.token_ids)
        places = rng.sample(range(1, length), min(self.num_cuts - 1, length - 1))
        end = (self.end_id,) if sample.finish_reason == "stop" else ()
        return Row(
            prompt_ids=rollout.prompt_ids,
            response_ids=sample.token_ids + end,
            cuts=tuple(
                LabelledCut(num_tokens=n, prob_win_or_tie=target) for n in (*places, length)
            ),
        )

    def _batches(self, rows: Sequence[Row], rng: random.Random) -> Iterator[BranchBatch]:
        size = self.batch_size
        chunks = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, self.question_ids, pad_id=self.pad_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceBatches(_Batches):
    """The method's examples: every sample, whole and cut at random, with its win-or-tie target."""

    def __iter__(self) -> Iterator[BranchBatch]:
        """Yield batches without end; every sample once an epoch."""
        rng = random.Random(self.seed)
        while True:
            rows = [
                self._row(rollout, sample, target, rng)
                for rollout in self.rollouts
                for sample, target in zip(
                    rollout.samples,
                    win_or_tie_targets([s.reward for s in rollout.samples]),
                    strict=True,
                )
                if sample.token_ids
            ]
            rng.shuffle(rows)
            rows.sort(key=lambda row: len(row.response_ids) // 8)  # near lengths together
            yield from self._batches(rows, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastBatches(_Batches):
    """A right and a wrong sample of the same prompt side by side, labelled right and wrong."""

    def __iter__(self) -> Iterator[BranchBatch]:
        """Yield batches without end; every mixed prompt once an epoch, with a fresh pair."""
        rng = random.Random(self.seed)
        mixed = [r for r in self.rollouts if len({s.reward for s in r.samples if s.token_ids}) > 1]
        while True:
            pairs = [self._pair(rollout, rng) for rollout in mixed]
            rng.shuffle(pairs)
            pairs.sort(key=lambda pair: len(pair[0].response_ids) // 8)
            yield from self._batches([row for pair in pairs for row in pair], rng)

    def _pair(self, rollout: Rollout, rng: random.Random) -> tuple[Row, Row]:
        samples = [s for s in rollout.samples if s.token_ids]
        best = max(s.reward for s in samples)
        right = rng.choice([s for s in samples if s.reward == best])
        wrong = rng.choice([s for s in samples if s.reward < best])
        return self._row(rollout, right, 1.0, rng), self._row(rollout, wrong, 0.0, rng)
