"""Other people's methods, one file each, and the bounds: an oracle and a lot."""

from selfeval_backend.evaluation.rivals.adaptive_consistency import AdaptiveConsistency
from selfeval_backend.evaluation.rivals.base import Rival
from selfeval_backend.evaluation.rivals.deep_confidence import DeepConfidence
from selfeval_backend.evaluation.rivals.early_stopping import EarlyStoppingConsistency
from selfeval_backend.evaluation.rivals.likelihood import MeanLogprob, SelfCertainty
from selfeval_backend.evaluation.rivals.oracle import Oracle
from selfeval_backend.evaluation.rivals.random_choice import RandomChoice
from selfeval_backend.evaluation.rivals.untrained import UntrainedQuestion
from selfeval_backend.evaluation.rivals.voting import MajorityVote, WeightedVote

__all__ = [
    "AdaptiveConsistency",
    "DeepConfidence",
    "EarlyStoppingConsistency",
    "MajorityVote",
    "MeanLogprob",
    "Oracle",
    "RandomChoice",
    "Rival",
    "SelfCertainty",
    "UntrainedQuestion",
    "WeightedVote",
]
