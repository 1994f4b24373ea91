"""What the marks say, and bounds of what any policy could reach, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.figures.paper_claims import paper_claims_section, retry_bounds
from tests.unit.evaluation.test_tuning import knowing

REWARDS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
"""Right at once; at every retry; at every other one; never."""


@pytest.mark.parametrize(
    ("mean_samples", "judge", "seer"),
    [
        (1.0, 0.25, 0.25),
        (1.25, 0.5, 0.5),  # one retry, of the second
        # A second retry: half as likely to be right as the first one; the seer needs two for it.
        (1.5, 0.25 + (1 + 0.5) / 4, 0.25 + (1 + 0.5) / 4),
        # All retries that can help: the judge's two fail one time in four.
        (3.0, 0.25 + (1 + 0.75) / 4, 0.75),
    ],
)
def test_bounds_by_hand(mean_samples: float, judge: float, seer: float) -> None:
    bounds = retry_bounds(REWARDS, mean_samples=mean_samples)

    assert bounds.first == 0.25
    assert bounds.judge == pytest.approx(judge)
    assert bounds.seer == pytest.approx(seer)


def test_where_nothing_can_be_mended_the_first_sample_is_all() -> None:
    for rewards in (np.zeros((3, 4)), np.ones((3, 4))):
        bounds = retry_bounds(rewards, mean_samples=2.0)
        assert bounds.judge == bounds.seer == bounds.first == rewards[0, 0]


@pytest.mark.slow
def test_the_section() -> None:
    text = paper_claims_section(knowing(40, annealed=True, noise=0.1), seed=0)

    assert "improvement kept at 1.2 samples at most | 74% | " in text
    assert "tokens saved by pruning alone, 97% kept or more | 56% | " in text
    assert "| tokens saved at most | " in text
    assert "nan" not in text
