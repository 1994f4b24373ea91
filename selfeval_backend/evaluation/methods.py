"""The methods that a model is compared by: one sample, greedy, Best-of-16, and this project's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from selfeval_backend.evaluation.rivals.base import Rival
from selfeval_backend.evaluation.signals import Signals
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.policy import Policy
from selfeval_backend.settings import Settings
from selfeval_backend.types import Limits

__all__ = [
    "BEST_OF_16",
    "DEFAULT_PRUNE_AT",
    "ONE_SAMPLE",
    "Method",
    "all_at_once",
    "best_of_n_name",
    "bounds",
    "own_methods",
    "standard_methods",
]

ONE_SAMPLE = "one sample"
_NUM_SAMPLES = 16


def best_of_n_name(num_samples: int) -> str:
    """Return the name of Best-of-N by self-evaluation."""
    return f"best-of-{num_samples}"


BEST_OF_16 = best_of_n_name(_NUM_SAMPLES)

DEFAULT_PRUNE_AT = (32, 64)
"""Checkpoints for a model that was tuned for none; half of the samples go on past each."""


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


def own_methods(
    full: Settings, tuned: Settings, *, rotations: int = 1, annealed: bool = True
) -> tuple[Method, ...]:
    """Return the methods that need no rival, in the order in which they are shown.

    One sample, greedy and Best-of-N; "adaptive+pruning" is what is tuned, "adaptive" the same
    without its checkpoints, and "pruning" the same with all samples drawn as Best-of-N draws them.
    Without checkpoints there is no pruning to be shown.

    Args:
        full: Of Best-of-N: all samples at once, at one temperature.
        tuned: Adaptive, with checkpoints or without.
        rotations: Of one sample.
        annealed: Whether a greedy sample can be had: a recording may have none.
    """
    one, best_of_n = bounds(full, rotations=rotations)
    greedy = replace(one.settings, temperature=0.0)
    methods = [
        one,
        *([Method(name="greedy", settings=greedy, evaluate=False)] if annealed else ()),
        best_of_n,
        Method(name="adaptive", settings=tuned.unpruned()),
    ]
    if tuned.prune_at:
        alone = all_at_once(tuned, temperature=full.temperature)
        methods.append(Method(name="pruning", settings=alone))
        methods.append(Method(name="adaptive+pruning", settings=tuned))
    return tuple(methods)


def bounds(full: Settings, *, rotations: int = 1) -> tuple[Method, Method]:
    """Return what improvement is counted from and against: one sample, and Best-of-N.

    Args:
        full: Of Best-of-N: all samples at once, at one temperature.
        rotations: Of one sample.
    """
    one = replace(full, max_samples=1)
    return (
        Method(name=ONE_SAMPLE, settings=one, evaluate=False, rotations=rotations),
        Method(name=best_of_n_name(full.max_samples), settings=full),
    )


def all_at_once(settings: Settings, *, temperature: float) -> Settings:
    """Return the same settings with all samples drawn at once, at one temperature."""
    return replace(
        settings, adaptive=False, batches=None, temperature=temperature, annealing="constant"
    )


def standard_methods(model: SelfEvaluatingModel) -> tuple[Method, ...]:
    """Return the six methods that a model is shown by, all of them of up to 16 samples.

    They follow what the model was tuned for (`policy` of its selfeval.json), with the defaults of
    `Settings` and `DEFAULT_PRUNE_AT` where it says nothing. All of them draw tokens as the model
    does.

    Raises:
        ConfigurationError: The model's engine cannot prune.
    """
    tuned = model.settings({"max_samples": _NUM_SAMPLES, "adaptive": True})
    if not tuned.prune_at:
        tuned = model.settings(
            {
                "max_samples": _NUM_SAMPLES,
                "adaptive": True,
                "prune_at": DEFAULT_PRUNE_AT,
                "keep_fraction": 0.5,
            }
        )
    return own_methods(all_at_once(tuned.unpruned(), temperature=tuned.temperature), tuned)
