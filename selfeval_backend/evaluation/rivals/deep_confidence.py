"""DeepConf: stop samples whose local confidence falls, vote by confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from selfeval_backend.evaluation.rivals.voting import count_votes, winner
from selfeval_backend.evaluation.signals import Signal, Signals, known
from selfeval_backend.policy import BestOfN, Policy, TemperatureSchedule
from selfeval_backend.types import Advance, Decision, Draw, Prune, RunState, Sample, Stop

__all__ = ["DeepConfidence", "lowest_group_confidence"]


def lowest_group_confidence(token_confidences: Sequence[float], window: int) -> float:
    """Return the lowest mean of `window` consecutive token confidences; of all, where fewer."""
    return _lowest(tuple(token_confidences), window)


@lru_cache(maxsize=4096)  # every decision asks it of every sample
def _lowest(token_confidences: tuple[float, ...], window: int) -> float:
    if len(token_confidences) <= window:
        return fmean(token_confidences)
    total = math.fsum(token_confidences[:window])
    lowest = total
    for leaving, coming in zip(token_confidences, token_confidences[window:], strict=False):
        total += coming - leaving
        lowest = min(lowest, total)
    return lowest / window


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepConfidence:
    """Warm up, set the bar by those samples, stop later ones that fall below it; vote weighted.

    Source: Fu et al. 2025, arXiv 2508.15260: online DeepConf, algorithm 2. Warm-up samples run to
    their end; the bar is the (1 - `keep`) quantile of their lowest group confidences; drawing
    stops once the leading answer has `consensus` of the weight. Departures, as samples here have a
    hundred tokens and not ten thousand: a window of 16 tokens for 2,048, 4 warm-up samples for 16,
    and the bar is looked at every `stride` tokens.
    """

    warmup: int = 4
    keep: float = 0.5
    """0.1 is the source's DeepConf-low, 0.9 its DeepConf-high."""
    window: int = 16
    stride: int = 8
    consensus: float = 0.95
    last_checkpoint: int = 128
    """Nothing is stopped past it."""
    needs: frozenset[Signal] = frozenset({"answer", "token_confidences"})

    def policy(self, drawing: BestOfN, signals: Signals) -> Policy:
        """Return the online policy."""
        return _Online(self, drawing.temperatures, signals)

    def select(self, finished: Sequence[Sample], signals: Signals) -> tuple[Sample, ...]:
        """Return the first sample of the answer with most confidence behind it."""
        return (winner(finished, signals, lambda s: self.lowest(s, signals))[0],)

    def lowest(self, sample: Sample, signals: Signals) -> float:
        """Return a sample's lowest group confidence so far."""
        confidences = known(signals(sample).token_confidences, "token_confidences")
        return lowest_group_confidence(confidences[: sample.num_generated_tokens], self.window)


@dataclass(frozen=True, slots=True)
class _Online:
    rival: DeepConfidence
    temperatures: TemperatureSchedule
    signals: Signals

    @property
    def checkpoints(self) -> tuple[int, ...]:
        rival = self.rival
        return tuple(range(rival.window, rival.last_checkpoint + 1, rival.stride))

    def decide(self, state: RunState) -> Decision:
        if state.fault is not None:
            return Stop(reason="engine_error")
        if state.running:
            return self._move_on(state)
        num_drawn, max_samples = len(state.samples), state.limits.max_samples
        if num_drawn >= max_samples:
            return Stop(reason="max_samples")
        if num_drawn == 0:
            target = min(self.rival.warmup, max_samples)
            return Draw(temperatures=tuple(map(self.temperatures.temperature, range(target))))
        if self._has_consensus(state):
            return Stop(reason="confident")
        return Draw(temperatures=(self.temperatures.temperature(num_drawn),))

    def _has_consensus(self, state: RunState) -> bool:
        votes = count_votes(
            state.finished, self.signals, lambda s: self.rival.lowest(s, self.signals)
        )
        total = sum(votes.values())
        return bool(votes) and total > 0 and max(votes.values()) / total >= self.rival.consensus

    def _move_on(self, state: RunState) -> Decision:
        if state.running[0].index < self.rival.warmup:
            return Advance(until=None)
        position = min(len(s.token_ids) for s in state.running)
        if position in self.checkpoints:
            bar = self._bar(state)
            fallen = tuple(
                s.index for s in state.running if self.rival.lowest(s, self.signals) < bar
            )
            if fallen:
                return Prune(samples=fallen)
        return Advance(until=next((c for c in self.checkpoints if c > position), None))

    def _bar(self, state: RunState) -> float:
        """The (1 - keep) quantile of the warm-up samples' lowest group confidences."""
        warm = sorted(
            self.rival.lowest(s, self.signals) for s in state.samples[: self.rival.warmup]
        )
        return warm[min(len(warm) - 1, math.floor((1.0 - self.rival.keep) * len(warm)))]
