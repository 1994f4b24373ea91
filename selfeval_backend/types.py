"""The values that a run is made of, all frozen.

A run is data that goes one way: a `RunState` goes into a policy, a `Decision` comes out, the
controller asks the engine, an observation makes the next `RunState`. When the policy says `Stop`,
the last state becomes an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

__all__ = [
    "FINAL_ACTIONS",
    "Accept",
    "Advance",
    "Decision",
    "Draw",
    "Evaluate",
    "Fate",
    "FinishReason",
    "GateAction",
    "GateRecord",
    "Limits",
    "Outcome",
    "Prune",
    "RunState",
    "RunTrace",
    "Sample",
    "SampleStatus",
    "SelfEvaluation",
    "Stop",
    "StopReason",
    "TraceEvent",
    "TrustLevel",
    "Usage",
    "Verdict",
    "to_json",
]

FinishReason = Literal["stop", "length"]
"""Why a finished sample ended: an end token or stop string; or max_tokens."""

SampleStatus = Literal["running", "finished", "pruned", "aborted"]
"""`pruned` by the policy at a checkpoint; `aborted` because the run ended before the sample did."""

Fate = Literal["chosen", "finished", "pruned", "aborted"]
"""What became of a sample, once the run is over."""

GateAction = Literal["accept", "retry", "escalate", "interrupt", "refuse", "raise"]
"""What a gate does: gives the answer out; asks the same model again; asks the next stronger one;
asks a person; gives a refusal in place of the answer; raises a GateError."""

FINAL_ACTIONS: frozenset[str] = frozenset({"accept", "interrupt", "refuse", "raise"})
"""Actions that end a run of the gate."""

Verdict = Literal["passed", "low", "missing", "uncalibrated", "trusted", "person"]
"""How an attempt was judged: "trusted" is the answer of a stronger model that has no confidence,
"person" is what a person said."""

StopReason = Literal[
    "accepted", "confident", "max_samples", "max_total_tokens", "max_seconds", "engine_error"
]
"""Why a run ended: a sample that had been accepted while it ran has finished, the threshold was
passed, the samples were used up, a limit, or a fault."""


TrustLevel = Literal["unknown", "trained"]
"""What is known of a model's self-evaluation.

"trained": it has a ``selfeval.json``, calibrated or not. "unknown": it has none. Nothing shows then
that its answers to the question order its samples, and nothing is chosen by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfEvaluation:
    """What the model says of one of its own samples, at one moment.

    Source: arXiv 2410.02725, section 3: the probability that a fresh on-policy response would not
    be better. High is good.
    """

    num_tokens: int
    """Tokens of the response that it speaks of."""
    final: bool
    """Whether the response was finished then."""
    prob_win_or_tie: float
    """In [0, 1]; calibrated if `calibrated`."""
    raw_prob_win_or_tie: float
    """In [0, 1]: p(win-or-tie label) / (sum over both labels), before calibration."""
    calibrated: bool
    """Whether `prob_win_or_tie` went through a calibration that was fitted for this model."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One candidate response, finished or not."""

    # No slots: what follows from the fields is kept, as a replay asks for it by the million.

    index: int
    """Its place in the order of drawing, from 0."""
    temperature: float
    """At which it is drawn; 0 is greedy."""
    seed: int
    """What its randomness was derived from."""
    token_ids: tuple[int, ...] = ()
    """Generated so far, the end token left out."""
    num_generated_tokens: int = 0
    """Paid for: `token_ids`, the end token, and what ran on while a decision was made."""
    status: SampleStatus = "running"
    """How far it is."""
    finish_reason: FinishReason | None = None
    """Set once finished."""
    evaluations: tuple[SelfEvaluation, ...] = ()
    """In order of time."""
    valid: bool | None = None
    """Set once finished, where an answer of some form was asked for: whether it is of that form.
    False, whatever was asked for, of a sample without text: no token, or white space alone."""
    beyond_training: bool = False
    """Set once finished: it was cut off at max_tokens, and the question was never trained on
    samples that were, so that its answer says little. Whole ones come first."""
    sum_logprob: float | None = None
    """Natural log-probability of the generated tokens, temperature 1; None if not asked for."""

    @cached_property
    def evaluation(self) -> SelfEvaluation | None:
        """The last self-evaluation if it speaks of the sample as it stands, else None."""
        if not self.evaluations:
            return None
        last = self.evaluations[-1]
        up_to_date = last.num_tokens == len(self.token_ids) and last.final == self.finished
        return last if up_to_date else None

    @cached_property
    def finished(self) -> bool:
        """Whether it ended by itself (end token, stop string or max_tokens)."""
        return self.status == "finished"

    @property
    def confidence(self) -> float | None:
        """prob_win_or_tie of the finished response; None if unfinished or not evaluated."""
        evaluation = self.evaluation
        return evaluation.prob_win_or_tie if self.finished and evaluation is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run paid for, in tokens. Nothing is left out, and nothing is counted twice."""

    prompt_tokens: int = 0
    """Prompt tokens of all samples: one prompt length a sample."""
    cached_prompt_tokens: int = 0
    """Of those, tokens whose KV cache was there already."""
    generated_tokens: int = 0
    """Generated by all samples: chosen, discarded, pruned and aborted."""
    pruned_tokens: int = 0
    """Of those, by samples that were pruned."""
    resent_tokens: int = 0
    """Prompts and parts of samples that were sent again to go on with a sample: to a server that
    stops at checkpoints, or to another replica."""
    cached_resent_tokens: int = 0
    """Of those, tokens whose KV cache was there already."""
    self_evaluations: int = 0
    """Self-evaluations made."""
    self_evaluation_tokens: int = 0
    """Tokens computed for them: the question, and what of the prefix was not in the KV cache."""
    cached_self_evaluation_tokens: int = 0
    """Prefix tokens that self-evaluations read from the KV cache."""

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, field by field."""
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens + other.cached_prompt_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            pruned_tokens=self.pruned_tokens + other.pruned_tokens,
            resent_tokens=self.resent_tokens + other.resent_tokens,
            cached_resent_tokens=self.cached_resent_tokens + other.cached_resent_tokens,
            self_evaluations=self.self_evaluations + other.self_evaluations,
            self_evaluation_tokens=self.self_evaluation_tokens + other.self_evaluation_tokens,
            cached_self_evaluation_tokens=(
                self.cached_self_evaluation_tokens + other.cached_self_evaluation_tokens
            ),
        )

    @property
    def total_tokens(self) -> int:
        """Prompt, generated, resent and self-evaluation tokens together: what the limits count."""
        return (
            self.prompt_tokens
            + self.generated_tokens
            + self.resent_tokens
            + self.self_evaluation_tokens
        )

    @property
    def input_tokens(self) -> int:
        """What went into the model, as providers of models count it.

        The prompt once for each sample, what was sent again to go on with one, and for each
        self-evaluation the sequence that it was asked of.
        """
        return (
            self.prompt_tokens
            + self.resent_tokens
            + self.self_evaluation_tokens
            + self.cached_self_evaluation_tokens
        )

    @property
    def cached_input_tokens(self) -> int:
        """Of `input_tokens`, those that were read from the KV cache."""
        return (
            self.cached_prompt_tokens
            + self.cached_resent_tokens
            + self.cached_self_evaluation_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may spend. None is no limit."""

    max_samples: int
    """Most samples of one run, at least 1."""
    max_total_tokens: int | None = None
    """Of `Usage.total_tokens`; samples that run when it is reached are aborted."""
    max_seconds: float | None = None
    """Wall time; samples that run when it is over are aborted."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything a policy may look at."""

    # No slots, as with `Sample`.

    limits: Limits
    samples: tuple[Sample, ...] = ()
    usage: Usage = field(default_factory=Usage)
    elapsed_s: float = 0.0
    """Observed by the controller; a policy has no clock."""
    fault: str | None = None
    """The engine error that ended the run's generation, if one did."""
    accepted: int | None = None
    """Index of the sample that is the answer, should it finish; None while that is open."""

    @cached_property
    def running(self) -> tuple[Sample, ...]:
        """Samples that still generate, in order of index."""
        return tuple(s for s in self.samples if s.status == "running")

    @cached_property
    def finished(self) -> tuple[Sample, ...]:
        """Samples that ended by themselves, in order of index."""
        return tuple(s for s in self.samples if s.finished)

    @cached_property
    def usable(self) -> tuple[Sample, ...]:
        """Finished samples that a run may end on.

        Not those that are not of the form that was asked for, or beyond training.
        """
        return tuple(s for s in self.finished if s.valid is not False and not s.beyond_training)

    @cached_property
    def to_evaluate(self) -> tuple[int, ...]:
        """Indices of finished samples that were not evaluated yet."""
        return tuple(s.index for s in self.finished if s.evaluation is None)

    @cached_property
    def position(self) -> int:
        """Tokens of the running sample that has fewest; 0 where none runs."""
        return min((len(s.token_ids) for s in self.running), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Start one new sample for each temperature."""

    temperatures: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Let every running sample go on until it has `until` tokens, or ends."""

    until: int | None
    """Generated tokens; None: to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Ask the self-evaluation question of these samples as they stand."""

    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Stop these running samples at once, and free their memory."""

    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Make this running sample the answer, should it finish: no other one is chosen then."""

    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the run; samples that still run are aborted."""

    reason: StopReason


Decision = Draw | Advance | Evaluate | Prune | Accept | Stop
"""What a policy may decide. The controller matches it exhaustively."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """One decision, and the state of things once it had been carried out."""

    decision: Decision
    elapsed_s: float
    """Since the run began."""
    usage: Usage
    """Paid for so far."""
    num_running: int
    num_finished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrace:
    """The ordered decisions of a run and what they led to; it explains the cost."""

    events: tuple[TraceEvent, ...]
    samples: tuple[Sample, ...]
    usage: Usage
    engine: str = ""
    """The engine's name; "(resubmitting)" behind it if samples were stopped at checkpoints and
    sent again to go on."""
    shaping: Mapping[str, float] = field(default_factory=dict)
    """How each token was drawn, beside its sample's temperature: top_p, top_k, min_p and
    repetition_penalty."""
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gives back."""

    best: int
    """Index of the chosen sample."""
    samples: tuple[Sample, ...]
    """All of them, in the order in which they were drawn."""
    confidence: float | None
    """prob_win_or_tie of the chosen sample; None where it was not asked: the run ended before, or
    nothing is known of the model's self-evaluation."""
    calibrated: bool
    """Whether `confidence` is calibrated for this model."""
    stop_reason: StopReason
    """Why no more was drawn."""
    usage: Usage
    """Everything that was paid for."""
    trace: RunTrace
    """Every decision and what came of it, in order."""

    @property
    def best_sample(self) -> Sample:
        """The chosen sample."""
        return self.samples[self.best]

    def fate(self, index: int) -> Fate:
        """Return what became of the sample of that index."""
        if index == self.best:
            return "chosen"
        status = self.samples[index].status
        return "aborted" if status == "running" else status

    def generated_tokens_by_fate(self) -> dict[str, int]:
        """Return what was generated by samples that were chosen, discarded, pruned and aborted."""
        tokens = {"chosen": 0, "discarded": 0, "pruned": 0, "aborted": 0}
        for sample in self.samples:
            fate = self.fate(sample.index)
            tokens["discarded" if fate == "finished" else fate] += sample.num_generated_tokens
        return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """One decision of a gate, and the attempt that it speaks of."""

    attempt: int
    """From 0, in one run of the gate."""
    level: int
    """0: the model that was asked first; k: the k-th stronger one."""
    verdict: Verdict
    """How the confidence of this attempt was read."""
    action: GateAction
    """What was done next."""
    reason: str
    """In words, with the numbers."""
    confidence: float | None = None
    """Of this attempt's answer; None: it had none."""
    calibrated: bool = False
    """Whether that confidence is a calibrated probability."""
    model: str = ""
    """The name of the model that answered, if it said so."""
    usage: Usage | None = None
    """Of this attempt, whatever became of its answer; None: it was not reported. What another
    provider's model does not tell apart is prompt or generated."""
    place: int = 0
    """Of the action in the chain that it was taken from."""
    valid: bool = True
    """`ConfidenceReading.valid` of the attempt."""

    @property
    def final(self) -> bool:
        """Whether it ends the run of the gate."""
        return self.action in FINAL_ACTIONS

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types, as it stands in states and metadata."""
        return {f.name: to_json(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> GateRecord:
        """Return what `to_json` was made from."""
        usage = body.get("usage")
        return cls(**{**body, "usage": None if usage is None else Usage(**usage)})


def to_json(value: Any) -> Any:
    """Turn any value of this module into JSON types; a decision gets its name under ``type``."""
    if value is None or isinstance(value, str | int | float):
        return value  # most values are: told first, as every answer's summary is made of them
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, Decision):
            return {"type": type(value).__name__.lower(), **body}
        return body
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value
