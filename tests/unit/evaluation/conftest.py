"""Models that solve held-out problems now and then."""

from __future__ import annotations

import pytest

from selfeval_backend.model import SelfEvaluatingModel
from tests.conftest import ModelFactory
from tests.unit.samples.puzzler import Puzzler


@pytest.fixture
def puzzler() -> Puzzler:
    """A script that solves about half of what it is asked, and knows when."""
    return Puzzler()


@pytest.fixture
def model(make_model: ModelFactory, puzzler: Puzzler) -> SelfEvaluatingModel:
    """A model that answers by that script."""
    return make_model(puzzler, policy={"threshold": 0.9, "prune_at": [8], "keep_fraction": 0.25})
