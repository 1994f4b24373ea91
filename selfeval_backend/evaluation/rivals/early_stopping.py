"""Early-stopping self-consistency: draw window after window until one is of a single answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfeval_backend.evaluation.rivals.voting import winner
from selfeval_backend.evaluation.signals import Signal, Signals
from selfeval_backend.policy import BestOfN, Policy, TemperatureSchedule
from selfeval_backend.types import Advance, Decision, Draw, RunState, Sample, Stop

__all__ = ["EarlyStoppingConsistency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStoppingConsistency:
    """Stop once all samples of a window agree; vote over all of them.

    Source: Li et al. 2024, arXiv 2401.10480, section 3.
    """

    window: int = 4
    needs: frozenset[Signal] = frozenset({"answer"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return the policy that draws windows."""
        return _Windows(self.window, drawing.temperatures, signals)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the first sample with the commonest answer."""
        return (winner(finished, signals)[0],)


@dataclass(frozen=True, slots=True)
class _Windows:
    window: int
    temperatures: TemperatureSchedule
    signals: Signals

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return ()

    def decide(self, state: RunState) -> Decision:
        if state.fault is not None:
            return Stop(reason="engine_error")
        if state.running:
            return Advance(until=None)
        num_drawn = len(state.samples)
        if num_drawn and num_drawn % self.window == 0:
            answers = {self.signals(s).answer for s in state.samples[-self.window :]}
            if len(answers) == 1 and None not in answers:
                return Stop(reason="confident")
        target = min(num_drawn + self.window, state.limits.max_samples)
        if num_drawn >= target:
            return Stop(reason="max_samples")
        return Draw(
            temperatures=tuple(map(self.temperatures.temperature, range(num_drawn, target)))
        )
