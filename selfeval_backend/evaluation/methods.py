"""The methods that a model is compared by: one sample, greedy, Best-of-16, and this project's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from selfeval_backend.evaluation.rivals.base import Rival
from selfeval_backend.evaluation.signals import Signals
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.policy import Policy
from selfeval_backend.settings import Settings
from selfeval_backend.types import Limits

__all__ = ["BEST_OF_16", "DEFAULT_PRUNE_AT", "ONE_SAMPLE", "Method", "standard_methods"]

ONE_SAMPLE = "one sample"
BEST_OF_16 = "best-of-16"

DEFAULT_PRUNE_AT = (32, 64)
"""Checkpoints for a model that was tuned for none; half of the samples go on past each."""

_NUM_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A name for a way of answering."""

    name: str
    settings: Settings
    """How samples are drawn, evaluated and pruned; a rival takes what concerns it."""
    evaluate: bool = True
    """False: there is nothing to choose from, so no self-evaluation is made or paid for."""
    rival: Rival | None = None
    """Decides and chooses instead of this project; None: as the settings say."""
    family: str = ""
    """What it is a setting of, in plots; "": a method of its own."""
    rotations: int = 1
    """Replays of one prompt, each beginning with another of the recorded samples, to be averaged:
    less noise, the same expectation. Only where all samples are drawn at one temperature."""

    @property
    def limits(self) -> Limits:
        """What one run may spend."""
        return self.settings.limits()

    def policy(self, signals: Signals | None = None) -> Policy:
        """Return what decides.

        Args:
            signals: Of the prompt's samples; a rival needs them.
        """
        own = replace(self.settings.policy(), evaluate=self.evaluate)
        if self.rival is None:
            return own
        assert signals is not None, "a rival decides by signals"
        return self.rival.policy(own, signals)


def standard_methods(model: SelfEvaluatingModel) -> tuple[Method, ...]:
    """Return the six methods, in the order in which they are shown.

    "adaptive+pruning" is what the model was tuned for (`policy` of its selfeval.json), with the
    defaults of `Settings` and `DEFAULT_PRUNE_AT` where it says nothing; "adaptive" is the same
    without its checkpoints, and "pruning" the same with all samples drawn at once, at temperature 1
    as Best-of-16 draws them.

    Raises:
        ConfigurationError: The model's engine cannot prune.
    """
    both = model.settings({"max_samples": _NUM_SAMPLES, "adaptive": True})
    if not both.prune_at:
        both = model.settings(
            {
                "max_samples": _NUM_SAMPLES,
                "adaptive": True,
                "prune_at": DEFAULT_PRUNE_AT,
                "keep_fraction": 0.5,
            }
        )
    adaptive = both.unpruned()
    best_of_16 = _all_at_once(adaptive)
    one_sample = replace(best_of_16, max_samples=1)
    greedy = replace(one_sample, temperature=0.0)
    return (
        Method(name=ONE_SAMPLE, settings=one_sample, evaluate=False),
        Method(name="greedy", settings=greedy, evaluate=False),
        Method(name=BEST_OF_16, settings=best_of_16),
        Method(name="adaptive", settings=adaptive),
        Method(name="pruning", settings=_all_at_once(both)),
        Method(name="adaptive+pruning", settings=both),
    )


def _all_at_once(settings: Settings) -> Settings:
    return replace(settings, adaptive=False, batches=None, temperature=1.0, annealing="constant")
