"""Scorers: what a response is worth, for evaluation and training alike."""

from selfeval_backend.scorers.base import Scored, Scorer, Scoring, reward_of, said
from selfeval_backend.scorers.loading import load_scorer
from selfeval_backend.scorers.local import FunctionScorer, LocalScorer
from selfeval_backend.scorers.spec import ScorerIdentity, ScorerSpec, identify, read_spec

__all__ = [
    "FunctionScorer",
    "LocalScorer",
    "Scored",
    "Scorer",
    "ScorerIdentity",
    "ScorerSpec",
    "Scoring",
    "identify",
    "load_scorer",
    "read_spec",
    "reward_of",
    "said",
]
