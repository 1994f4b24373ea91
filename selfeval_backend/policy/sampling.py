"""How many samples to draw together."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DOUBLING", "BatchSchedule"]


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """Batches as cumulative counts: (1, 2, 4, 8, 16) draws 1, 1, 2, 4 and 8 samples.

    Source: arXiv 2410.02725, section 4: batches that grow exponentially up to a maximum.
    """

    cumulative: tuple[int, ...]
    """Strictly ascending, from 1 up; past the last one, batches double."""

    def target(self, num_drawn: int, max_samples: int) -> int:
        """Return how many samples there are once the next batch has been drawn."""
        for count in self.cumulative:
            if count > num_drawn:
                return min(count, max_samples)
        return min(max(2 * num_drawn, 1), max_samples)

    def batch_start(self, index: int, max_samples: int) -> int:
        """Return the index of the first sample of the batch that a sample belongs to."""
        start = 0
        while (end := self.target(start, max_samples)) <= index:
            start = end
        return start

    @classmethod
    def all_at_once(cls, max_samples: int) -> BatchSchedule:
        """Return the schedule of plain Best-of-N."""
        return cls((max_samples,))


DOUBLING = BatchSchedule((1,))
"""1, 2, 4, 8, 16, ... in all: the default."""
