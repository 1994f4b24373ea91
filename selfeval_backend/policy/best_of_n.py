"""The one policy: Best-of-N, with adaptive sampling and pruning as its parameters.

A run goes in batches. A batch is drawn, advances from checkpoint to checkpoint, where its running
samples are evaluated and some of them pruned, and to its end, where finished samples are evaluated;
then the run stops, or draws the next batch. A running sample that is accepted at a checkpoint ends
all that: the others stop, and it runs to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from selfeval_backend.policy.annealing import Constant, TemperatureSchedule
from selfeval_backend.policy.pruning import Checkpoint
from selfeval_backend.policy.sampling import DOUBLING, BatchSchedule
from selfeval_backend.policy.stopping import is_confident, reached_limit
from selfeval_backend.types import (
    Accept,
    Advance,
    Decision,
    Draw,
    Evaluate,
    Prune,
    RunState,
    Sample,
    Stop,
)

__all__ = ["BestOfN", "Policy"]


class Policy(Protocol):
    """Turns a state into the next decision: pure, with no clock, no await and no randomness."""

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Generated tokens at which samples may be evaluated while they run, ascending."""
        ...

    def decide(self, state: RunState) -> Decision:
        """Return what to do next; the same for the same state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Draw, evaluate, prune, accept and stop as its parameters say.

    Plain Best-of-N is ``batches=BatchSchedule.all_at_once(n)`` without threshold and pruning.
    """

    batches: BatchSchedule = DOUBLING
    """How many samples there are after each batch."""
    temperatures: TemperatureSchedule = Constant(1.0)
    """The temperature of each sample."""
    threshold: float | None = None
    """Stop drawing once a finished sample has this prob_win_or_tie; None: never early."""
    pruning: tuple[Checkpoint, ...] = ()
    """Ascending by `at`."""
    evaluate: bool = True
    """False: finished samples are not evaluated, and the first one is chosen. What generation costs
    without choosing; `threshold` is never reached."""

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Generated tokens at which running samples are evaluated."""
        return tuple(checkpoint.at for checkpoint in self.pruning)

    def decide(self, state: RunState) -> Decision:
        """Return the next decision."""
        limit = reached_limit(state)
        if state.fault is not None:
            # Once the time is over, a fault is no more than a last self-evaluation that is missed.
            return Stop(reason=limit if limit == "max_seconds" else "engine_error")
        accepted = None if state.accepted is None else state.samples[state.accepted]
        # One that was accepted, and is not of the form that was asked for, ends nothing.
        counts = accepted is not None and accepted.valid is not False
        if accepted is not None and counts and (limit is None or accepted.finished):
            return self._bring_home(state, accepted)
        if state.running and limit is None:
            return self._move_on(state)
        if self.evaluate and state.to_evaluate:
            return Evaluate(samples=state.to_evaluate)
        return Stop(reason=limit) if limit else self._draw_or_stop(state)

    def _bring_home(self, state: RunState, accepted: Sample) -> Decision:
        """Stop all samples but the accepted one, which runs to its end and is evaluated."""
        if others := tuple(s.index for s in state.running if s.index != accepted.index):
            return Prune(samples=others)
        if accepted.status == "running":
            return Advance(until=None)
        if self.evaluate and accepted.evaluation is None:
            return Evaluate(samples=(accepted.index,))
        return Stop(reason="accepted")

    def _draw_or_stop(self, state: RunState) -> Decision:
        if self.threshold is not None and is_confident(state, self.threshold):
            return Stop(reason="confident")
        num_drawn, max_samples = len(state.samples), state.limits.max_samples
        if num_drawn >= max_samples:
            return Stop(reason="max_samples")
        target = self.batches.target(num_drawn, max_samples)
        return Draw(
            temperatures=tuple(map(self.temperatures.temperature, range(num_drawn, target)))
        )

    def _move_on(self, state: RunState) -> Decision:
        """Take the batch that runs on its next step: evaluate, accept, prune, or advance."""
        position = state.position
        checkpoint = next((c for c in self.pruning if c.at == position), None)
        if checkpoint is not None:
            if unevaluated := tuple(s.index for s in state.running if s.evaluation is None):
                return Evaluate(samples=unevaluated)
            if (accepted := checkpoint.to_accept(state.running)) is not None:
                return Accept(sample=accepted)
            if pruned := self._to_prune(checkpoint, state):
                return Prune(samples=pruned)
        return Advance(until=next((c.at for c in self.pruning if c.at > position), None))

    def _to_prune(self, checkpoint: Checkpoint, state: RunState) -> tuple[int, ...]:
        max_samples = state.limits.max_samples
        start = self.batches.batch_start(state.running[0].index, max_samples)
        num_evaluated = sum(_was_evaluated_at(s, checkpoint.at) for s in state.samples[start:])
        return checkpoint.to_prune(
            state.running,
            num_evaluated=num_evaluated,
            must_keep_one=not state.usable and len(state.samples) >= max_samples,
        )


def _was_evaluated_at(sample: Sample, num_tokens: int) -> bool:
    for evaluation in sample.evaluations:  # a loop, as a replay asks this by the million
        if evaluation.num_tokens == num_tokens and not evaluation.final:
            return True
    return False
