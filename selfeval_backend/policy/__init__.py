"""Pure decisions: a state goes in, a decision comes out."""

from selfeval_backend.policy.annealing import Annealed, Constant, PerSample, TemperatureSchedule
from selfeval_backend.policy.best_of_n import BestOfN, Policy
from selfeval_backend.policy.pruning import Checkpoint
from selfeval_backend.policy.sampling import DOUBLING, BatchSchedule
from selfeval_backend.policy.selection import certain_winner, select_best

__all__ = [
    "DOUBLING",
    "Annealed",
    "BatchSchedule",
    "BestOfN",
    "Checkpoint",
    "Constant",
    "PerSample",
    "Policy",
    "TemperatureSchedule",
    "certain_winner",
    "select_best",
]
