"""A gate behind an answer: is its confidence enough, and what is done if it is not?

Pure, and of no framework: adapters carry out what `decide` says, and keep its records::

    policy = GatePolicy(threshold=0.8, on_low=("retry", "escalate", "refuse"), num_stronger=1)
    records = ()
    while True:
        answer = ...                                      # of the model of this level
        reading = read_confidence(answer.response_metadata.get("best_of_n"))
        records += (decide(policy, reading, records),)
        if records[-1].final: ...                         # accept, interrupt, refuse or raise
        answer_settings = retry_settings(policy, reading) # of the next attempt, on a "retry"

A run of the gate is a sequence of records that ends with the first one that is final. A missing
confidence never passes by itself, and neither does one that is not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn, Self, TypeGuard, cast, get_args

from pydantic import Field, model_validator

from selfeval_backend.errors import (
    ConfigurationError,
    LowConfidenceError,
    MissingConfidenceError,
    UncalibratedConfidenceError,
)
from selfeval_backend.policy import Annealed
from selfeval_backend.types import (
    FINAL_ACTIONS,
    GateAction,
    GateRecord,
    Usage,
    Verdict,
)
from selfeval_backend.validation import Allowed, Probability, validated

__all__ = [
    "FINAL_ACTIONS",
    "ConfidenceReading",
    "GateAction",
    "GatePolicy",
    "GateRecord",
    "PersonReply",
    "Verdict",
    "best_attempt",
    "current_run",
    "decide",
    "last_run",
    "raise_gate_error",
    "read_confidence",
    "read_reply",
    "record_reply",
    "retry_settings",
    "total_usage",
]

_Chain = tuple[GateAction, ...]
_KNOWN = f"one or several of {', '.join(get_args(GateAction))}"
_Count = Annotated[int, Field(ge=1)]
_Several = Annotated[Sequence[GateAction], Field(min_length=1)]
_Compare = Annotated[Sequence[Literal["compare"]], Field(min_length=1, max_length=1)]
_Actions = Annotated[GateAction | _Several, Allowed(_KNOWN)]
_ActionsOrCompare = Annotated[
    GateAction | Literal["compare"] | _Several | _Compare, Allowed(f'{_KNOWN}, or "compare"')
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceReading:
    """What an answer says of itself."""

    confidence: float | None
    """prob_win_or_tie in [0, 1]; None if the answer carries none."""
    calibrated: bool = False
    """Whether it is calibrated for the model that answered."""
    problem: str | None = None
    """Why there is no confidence; None if there is one."""
    valid: bool = True
    """False: it is marked ``valid: false``: blank, cut off, or not of the form that was asked for.
    Its confidence is then low, whatever it is."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the answer was drawn with (``best_of_n["policy"]``); empty if it does not say."""


def read_confidence(best_of_n: object) -> ConfidenceReading:
    """Read what a message or a response carries under ``best_of_n``.

    Nothing there, or something that is no probability, is a missing confidence, never a pass.

    Args:
        best_of_n: As `selfeval_backend.model.Answer.summary` makes it; None if there is none.
    """
    if best_of_n is None:
        return ConfidenceReading(confidence=None, problem="the answer carries no best_of_n")
    if not isinstance(best_of_n, Mapping):
        return ConfidenceReading(
            confidence=None, problem=f"best_of_n is a {type(best_of_n).__name__}, not a mapping"
        )
    settings = best_of_n.get("policy")
    settings = dict(settings) if isinstance(settings, Mapping) else {}
    valid = best_of_n.get("valid") is not False
    confidence = best_of_n.get("confidence")
    if not _is_number(confidence) or not 0.0 <= confidence <= 1.0:
        shown = (
            best_of_n.get("no_confidence") or "it does not say why"
            if confidence is None
            else f"{confidence!r:.40} is no number in [0, 1]"
        )
        return ConfidenceReading(
            confidence=None,
            problem=f"best_of_n has no confidence: {shown}",
            settings=settings,
            valid=valid,
        )
    return ConfidenceReading(
        confidence=float(confidence),
        calibrated=best_of_n.get("calibrated") is True,
        settings=settings,
        valid=valid,
    )


@validated
class GatePolicy:
    """When an answer passes, and what is done with one that does not.

    A chain is walked from left to right, one step for each attempt that it is asked about, and
    never back. "retry" counts for up to `max_retries` attempts in a row. "escalate" goes to the
    next stronger model, and is passed over where there is none left. A chain that ends without
    "accept", "interrupt", "refuse" or "raise" ends with "raise". One name is a chain of one.

    Raises:
        ConfigurationError: A value is out of its range; names field, value and range.
    """

    threshold: Probability
    """In [0, 1]: the least confidence that passes."""
    on_low: _Actions = ("retry", "raise")
    """The chain for a confidence below `threshold`, and for an answer that is marked ``valid:
    false``; "accept" gives the best answer out."""
    on_missing: _Actions = "raise"
    """The chain for an answer without a confidence."""
    on_uncalibrated: _ActionsOrCompare = "raise"
    """The chain for a confidence that is marked ``calibrated: false``; "compare" compares it with
    `threshold` like any other."""
    max_retries: _Count = 1
    """At least 1."""
    retry_samples: _Count | None = None
    """``max_samples`` of a retry; None: twice those of the attempt before it."""
    num_stronger: Annotated[int, Field(ge=0)] = 0
    """Models to escalate to."""
    trust_stronger: bool = False
    """Whether the answer of a stronger model passes without a confidence, for those that are no
    adaptive ones and have none."""

    @model_validator(mode="after")
    def _chains_end_once(self) -> Self:
        for name in ("on_low", "on_missing", "on_uncalibrated"):
            if not (name == "on_uncalibrated" and self.compares_uncalibrated):
                self._check_chain(name, getattr(self, name))
        return self

    @property
    def compares_uncalibrated(self) -> bool:
        """Whether a confidence that is not calibrated is held against the threshold."""
        return self.on_uncalibrated in ("compare", ("compare",), ["compare"])

    def chain(self, verdict: Verdict) -> _Chain:
        """Return what is done about a verdict, step by step; the last one is final."""
        if verdict in ("passed", "trusted", "person"):
            return ("accept",)
        if verdict == "uncalibrated" and self.compares_uncalibrated:
            return self.chain("low")
        steps = _steps(getattr(self, f"on_{verdict}"))
        spread = tuple(step for step in steps for _ in range(self._times(step)))
        return spread if steps[-1] in FINAL_ACTIONS else (*spread, "raise")

    def _times(self, step: str) -> int:
        return {"retry": self.max_retries, "escalate": self.num_stronger}.get(step, 1)

    def _check_chain(self, name: str, value: object) -> None:
        steps = _steps(value)
        if any(step in FINAL_ACTIONS for step in steps[:-1]):
            raise ConfigurationError(
                name, value, f"{', '.join(sorted(FINAL_ACTIONS))} as the last step only"
            )
        if "escalate" in steps and not self.num_stronger:
            raise ConfigurationError(
                name, value, "no escalate without a stronger model", remedy="Give `stronger`."
            )


def decide(
    policy: GatePolicy,
    reading: ConfidenceReading,
    earlier: Sequence[GateRecord] = (),
    *,
    model: str = "",
    usage: Usage | None = None,
) -> GateRecord:
    """Judge an attempt and say what is done next.

    Args:
        policy: What passes, and what is done with what does not.
        reading: Of the attempt.
        earlier: The records of this run of the gate, none of them final.
        model: The name of the model that answered.
        usage: What the attempt paid for.
    """
    level = sum(record.action == "escalate" for record in earlier)
    verdict = _verdict(policy, reading, level)
    place = _place(policy, verdict, earlier, level)
    return GateRecord(
        attempt=len(earlier),
        level=level,
        verdict=verdict,
        action=policy.chain(verdict)[place],
        reason=_reason(policy, reading, verdict),
        confidence=reading.confidence,
        calibrated=reading.calibrated,
        model=model,
        usage=usage,
        place=place,
        valid=reading.valid,
    )


def _verdict(policy: GatePolicy, reading: ConfidenceReading, level: int) -> Verdict:
    if not reading.valid:
        return "low"
    if reading.confidence is None:
        return "trusted" if level > 0 and policy.trust_stronger else "missing"
    if not reading.calibrated and not policy.compares_uncalibrated:
        return "uncalibrated"
    return "passed" if reading.confidence >= policy.threshold else "low"


def _place(policy: GatePolicy, verdict: Verdict, earlier: Sequence[GateRecord], level: int) -> int:
    """Return the next step of a verdict's chain that can be taken."""
    chain = policy.chain(verdict)
    place = max((r.place + 1 for r in earlier if r.verdict == verdict), default=0)
    while chain[place] == "escalate" and level >= policy.num_stronger:
        place += 1
    return place


def _reason(policy: GatePolicy, reading: ConfidenceReading, verdict: Verdict) -> str:
    if not reading.valid:
        said = "none" if reading.confidence is None else f"{reading.confidence:.3f}"
        why = "blank, cut off, or not of the form that was asked for"
        return f"the answer is not valid ({why}), whatever its confidence ({said})"
    if reading.confidence is None:
        problem = reading.problem or "the answer carries no confidence"
        return f"{problem}; the stronger model is trusted" if verdict == "trusted" else problem
    if verdict == "uncalibrated":
        return f"confidence {reading.confidence:.3f} is not calibrated"
    calibrated = "" if reading.calibrated else " (not calibrated)"
    side = "reaches" if verdict == "passed" else "is below"
    return f"confidence {reading.confidence:.3f}{calibrated} {side} threshold {policy.threshold:g}"


def retry_settings(policy: GatePolicy, reading: ConfidenceReading) -> dict[str, Any]:
    """Return the settings of a call that tries again after this attempt.

    More samples, drawn anew (the next seed), not stopped before the gate would pass, and without a
    greedy one, which would come out as it did before. Empty where the attempt does not say what it
    was drawn with: a model of another kind is asked again as it is.
    """
    before = reading.settings
    if not _is_count(before.get("max_samples")):
        return {}
    settings: dict[str, Any] = {"max_samples": policy.retry_samples or 2 * before["max_samples"]}
    if _is_number(before.get("threshold")):
        settings["threshold"] = max(policy.threshold, before["threshold"])
    if _is_count(before.get("seed")):
        settings["seed"] = before["seed"] + 1
    annealing = before.get("annealing")
    if annealing == "annealed" and before.get("adaptive") and _is_number(before["temperature"]):
        schedule = Annealed(before["temperature"])
        settings["annealing"] = tuple(schedule.temperature(index) for index in range(1, 9))
    elif isinstance(annealing, list | tuple):
        settings["annealing"] = tuple(annealing)
    return settings


def best_attempt(records: Sequence[GateRecord]) -> int:
    """Return which attempt of a run is given out or shown to a person.

    The last one if it passed, or the one that a person was asked about. Else, of the strongest
    model that was asked, a valid one before others, of these the one of highest confidence, and of
    equal ones the latest: what two models say of themselves does not compare.
    """
    last = records[-1]
    if last.verdict in ("passed", "trusted", "person"):
        return last.attempt
    of_strongest = [record for record in records if record.level == last.level]
    return max(
        of_strongest,
        key=lambda r: (r.valid, -1.0 if r.confidence is None else r.confidence, r.attempt),
    ).attempt


def current_run(records: Sequence[GateRecord]) -> tuple[GateRecord, ...]:
    """Return the records of the run that has not ended: those after the last final one."""
    return () if records and records[-1].final else last_run(records)


def last_run(records: Sequence[GateRecord]) -> tuple[GateRecord, ...]:
    """Return the records of the last run, ended or not, out of those of several."""
    earlier_ends = [place for place, record in enumerate(records[:-1]) if record.final]
    return tuple(records[earlier_ends[-1] + 1 :] if earlier_ends else records)


def total_usage(records: Sequence[GateRecord]) -> Usage:
    """Return what all attempts together paid for; those that did not report it count nothing."""
    return sum((r.usage for r in records if r.usage is not None), Usage())


def raise_gate_error(records: Sequence[GateRecord]) -> NoReturn:
    """Raise the error of a run whose last action is "raise".

    Raises:
        LowConfidenceError: The last confidence was too low.
        MissingConfidenceError: There was none.
        UncalibratedConfidenceError: It is not calibrated.
    """
    last = records[-1]
    error = {
        "missing": MissingConfidenceError,
        "uncalibrated": UncalibratedConfidenceError,
    }.get(last.verdict, LowConfidenceError)
    raise error(last.reason, records=tuple(records))


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonReply:
    """What a person says to an answer that did not pass."""

    type: Literal["approve", "edit", "reject"]
    content: str | None = None
    """The answer in its place ("edit"), or why not ("reject")."""


def read_reply(value: object) -> PersonReply | str:
    """Read a person's reply; a string in return says what is wrong with it.

    Args:
        value: ``{"type": "approve"}``, ``{"type": "edit", "content": "..."}``, or ``{"type":
            "reject"}``, with or without ``"content": "..."`` to say in the answer's place; or
            the word alone where nothing follows.
    """
    body = {"type": value} if isinstance(value, str) else value
    if not isinstance(body, Mapping) or body.get("type") not in ("approve", "edit", "reject"):
        return f'expected {{"type": "approve"}}, "edit" or "reject"; got {value!r:.80}'
    unknown = set(body) - {"type", "content"}
    content = body.get("content")
    if unknown:
        return f"expected type and content only; got {', '.join(sorted(map(str, unknown)))}"
    if body["type"] == "approve" and content is not None:
        return 'expected no content with "approve"; "edit" takes one'
    if content is not None and not isinstance(content, str):
        return f"expected content as a string; got {content!r:.80}"
    if body["type"] == "edit" and not (content or "").strip():
        return 'expected content with "edit"'
    return PersonReply(type=body["type"], content=content)


def record_reply(run: Sequence[GateRecord], reply: PersonReply) -> GateRecord:
    """Return the record of a reply; nothing was paid for it.

    Args:
        run: The records of the run whose last action was "interrupt".
        reply: What the person said.
    """
    words = {"approve": "approved", "edit": "edited", "reject": "rejected"}
    asked = run[best_attempt(run)]
    kept = reply.type != "edit"
    return GateRecord(
        attempt=asked.attempt,
        level=asked.level,
        verdict="person",
        action="refuse" if reply.type == "reject" else "accept",
        reason=f"{words[reply.type]} by a person",
        confidence=asked.confidence if kept else None,
        calibrated=asked.calibrated and kept,
        model=asked.model if kept else "",
        usage=Usage(),
    )


def _steps(value: object) -> _Chain:
    if isinstance(value, str):
        return (cast(GateAction, value),)
    return tuple(value) if isinstance(value, Sequence) else ()


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
