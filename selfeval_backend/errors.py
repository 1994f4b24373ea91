"""Every error this project raises, as one tree.

::

    AICError
      ConfigurationError(ValueError)        a setting or an input: field, value, allowed, remedy
      MissingDependencyError(ImportError)   names the extra to install
      ModelFilesError                       a model folder or its selfeval.json
      DatasetError                          training or evaluation data
      ScorerError                           a scorer gave no reward for a response
      SelfEvaluationError                   label token absent, log-probability missing
      EngineError                           retryable, hint, request_id
        EngineConnectionError  EngineTimeoutError  EngineResponseError
        EngineRequestError                  status_code
        EngineClosedError                   used after it was closed
        ContextLengthError                  prompt and question do not fit
      NoFinishedSampleError                 carries the trace of what was paid for
      GateError                             carries the records: every attempt, every token
        LowConfidenceError  MissingConfidenceError  UncalibratedConfidenceError
      StreamBrokenError                     the sample whose text was streamed is not the answer

"You used it wrong" is a ConfigurationError, raised before any token; "the run failed" is everything
else. Foreign exceptions are translated once, at an engine's edge, with ``raise ... from``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfeval_backend.types import GateRecord, RunTrace

__all__ = [
    "AICError",
    "ConfigurationError",
    "ContextLengthError",
    "DatasetError",
    "EngineClosedError",
    "EngineConnectionError",
    "EngineError",
    "EngineRequestError",
    "EngineResponseError",
    "EngineTimeoutError",
    "GateError",
    "LowConfidenceError",
    "MissingConfidenceError",
    "MissingDependencyError",
    "ModelFilesError",
    "NoFinishedSampleError",
    "ScorerError",
    "SelfEvaluationError",
    "StreamBrokenError",
    "UncalibratedConfidenceError",
]


_SECRET = re.compile(r"(?i)(^|[_-])(token|key|password|secret|authorization)$")
"""Names of values that are never shown: hf_token and api_key, but not max_tokens."""


class AICError(Exception):
    """Base of every error that this project raises on purpose.

    It can be pickled, with all of its fields.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way would call the class with the message alone.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(error: type[AICError], args: tuple[Any, ...], state: dict[str, Any]) -> AICError:
    made = error.__new__(error, *args)
    made.__dict__.update(state)
    return made


class ConfigurationError(AICError, ValueError):
    """A setting or an input that cannot be used; raised before any token is generated.

    Args:
        field: The setting, as its user spells it.
        value: What was given.
        allowed: What may be given, as a short phrase.
        remedy: What to do, as a short imperative sentence; None where `allowed` says it.
    """

    def __init__(
        self, field: str, value: object, allowed: str, *, remedy: str | None = None
    ) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        self.remedy = remedy
        shown = repr(_without_secrets(value))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        message = f"{field}: got {shown}, expected {allowed}."
        super().__init__(f"{message} {remedy}" if remedy else message)


def _without_secrets(value: object) -> object:
    """Return a mapping without values whose names mark secrets; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    return {k: "***" if _SECRET.search(str(k)) else _without_secrets(v) for k, v in value.items()}


class MissingDependencyError(AICError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: What could not be imported.
        extra: The extra of this project that installs it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{package} is not installed. "
            f"Install it with: pip install 'adaptive-inference-compute[{extra}]'"
        )


class ModelFilesError(AICError):
    """A model folder, or its ``selfeval.json``, that cannot be used; the message names the file."""


class DatasetError(AICError):
    """Training or evaluation data that cannot be used; the message names the row or the file."""


class ScorerError(AICError):
    """A scorer gave no reward for a response: it raised, took too long, or said no number."""


class SelfEvaluationError(AICError):
    """A self-evaluation that cannot be read: a label token absent, a log-probability missing."""


class EngineError(AICError):
    """An engine failed.

    Args:
        message: What happened.
        retryable: Whether the same request may succeed later.
        hint: What to do about it.
        request_id: The engine's name for the request.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        hint: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self.retryable = retryable
        self.hint = hint
        self.request_id = request_id
        super().__init__(f"{message} {hint}" if hint else message)


class EngineConnectionError(EngineError):
    """The engine could not be reached, or the connection dropped."""


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class EngineRequestError(EngineError):
    """The engine refused a request.

    Args:
        message: What happened.
        status_code: The HTTP status, where there is one.
        retryable: Whether the same request may succeed later.
        hint: What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retryable: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, hint=hint)
        self.status_code = status_code


class EngineResponseError(EngineError):
    """The engine answered something that cannot be understood."""


class EngineClosedError(EngineError):
    """The engine was used after it had been closed."""


class ContextLengthError(EngineError, ConfigurationError):
    """The prompt, with room for an answer and for the self-evaluation, exceeds the context.

    Args:
        num_prompt_tokens: Tokens of the rendered prompt.
        num_reserved_tokens: Tokens that are kept free for the answer and the question.
        context_length: Tokens that the model takes.
    """

    def __init__(
        self, *, num_prompt_tokens: int, num_reserved_tokens: int, context_length: int
    ) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.num_reserved_tokens = num_reserved_tokens
        self.context_length = context_length
        self.retryable = False
        """Never: the same call fails again."""
        over = num_prompt_tokens + num_reserved_tokens - context_length
        room = context_length - num_reserved_tokens
        by = f", by {over} tokens in all" if over > 0 else ""
        self.hint = f"Shorten the prompt or lower max_tokens{by}."
        """What to change."""
        kept = "kept for the answer and the self-evaluation question"
        if room > 0:
            allowed = (
                f"at most {room} tokens ({context_length} of context, {num_reserved_tokens} {kept})"
            )
        else:
            allowed = (
                f"room for it: {num_reserved_tokens} tokens are {kept}, of {context_length} of "
                "context"
            )
        self.request_id = None
        """None: nothing was sent."""
        ConfigurationError.__init__(
            self,
            "prompt",
            f"{num_prompt_tokens} tokens",
            allowed,
            remedy=self.hint,
        )


class NoFinishedSampleError(AICError):
    """A run ended before any sample had finished.

    Args:
        reason: Why it ended.
        trace: Every decision and observation up to then: what was paid for.
    """

    def __init__(self, reason: str, *, trace: RunTrace) -> None:
        self.reason = reason
        self.trace = trace
        super().__init__(
            f"No sample had finished when the run ended ({reason}). "
            f"{trace.usage.generated_tokens} generated tokens are accounted for in `.trace`."
        )


class GateError(AICError):
    """No answer passed a confidence gate.

    Args:
        reason: Why the last one did not.
        records: Every attempt: what the gate decided about it, and what was paid for.
    """

    hint = ""
    """What to do about it."""

    def __init__(self, reason: str, *, records: tuple[GateRecord, ...]) -> None:
        self.reason = reason
        self.records = records
        super().__init__(
            f"No answer passed the gate in {len(records)} attempts: {reason}. {self.hint}"
            if len(records) > 1
            else f"The answer did not pass the gate: {reason}. {self.hint}"
        )


class LowConfidenceError(GateError):
    """The confidence stayed below the gate's threshold."""

    hint = "Lower the threshold, or add a step to on_low: escalate, interrupt, refuse or accept."
    """What to change."""


class MissingConfidenceError(GateError):
    """An answer has no confidence, and the gate has no setting for that case."""

    hint = (
        "Put an adaptive model behind the gate, or say in on_missing what to do; answers of "
        "stronger models of another kind pass with trust_stronger=True."
    )
    """What to change."""


class UncalibratedConfidenceError(GateError):
    """A confidence is not calibrated, and the gate has no setting for that case."""

    hint = (
        "Calibrate the model's self-evaluation (`aic train`), or say in on_uncalibrated what to "
        'do; "compare" compares it with the threshold anyway.'
    )
    """What to change."""


class StreamBrokenError(AICError):
    """The sample whose text was being streamed did not finish, and another one is the answer.

    Args:
        reason: Why the run ended.
        answer: The text that was chosen instead.
        trace: Every decision and observation: what was paid for.
    """

    def __init__(self, reason: str, *, answer: str, trace: RunTrace) -> None:
        self.reason = reason
        self.answer = answer
        self.trace = trace
        super().__init__(
            f"The sample whose text was streamed did not finish ({reason}), and text cannot be "
            "taken back. What was chosen instead is in `.answer`, what was paid for in `.trace`."
        )
