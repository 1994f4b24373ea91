"""The names under which a run stands in traces: OpenTelemetry's for generative AI, and our own.

Source: OpenTelemetry's semantic conventions for generative AI (development status; the names below
are those of opentelemetry-semantic-conventions 0.66). What they have no name for begins with
``aic.``. No prompt and no text of a sample is among it, unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from selfeval_backend.types import Usage

__all__ = ["AttributeValue", "TraceSpanEvent", "call_attributes", "sample_events"]

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
"""What OpenTelemetry takes as an attribute's value."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
CHOICE_COUNT = "gen_ai.request.choice.count"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
EVALUATION_EVENT = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"
SAMPLE_EVENT = "aic.sample"

_REQUEST = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "min_p": "aic.request.min_p",
    "repetition_penalty": "aic.request.repetition_penalty",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "max_samples": CHOICE_COUNT,
    "adaptive": "aic.request.adaptive",
    "threshold": "aic.request.threshold",
    "prune_at": "aic.request.prune_at",
}
_RESULT = {
    "confidence": "aic.confidence",
    "calibrated": "aic.calibrated",
    "level": "aic.level",
    "stop_reason": "aic.stop_reason",
    "fault": "aic.fault",
    "num_samples": "aic.num_samples",
    "engine": "aic.engine",
}
_TOKENS = {
    "generated_tokens": OUTPUT_TOKENS,
    "pruned_tokens": "aic.usage.pruned_tokens",
    "chosen": "aic.usage.chosen_tokens",
    "self_evaluations": "aic.usage.self_evaluations",
    "self_evaluation_tokens": "aic.usage.self_evaluation_tokens",
}
_SAMPLE = {
    "temperature": "gen_ai.request.temperature",
    "generated_tokens": OUTPUT_TOKENS,
    "finish_reason": "aic.sample.finish_reason",
    "fate": "aic.sample.fate",
}
_EVALUATION = {
    "prob_win_or_tie": EVALUATION_SCORE,
    "num_tokens": "aic.evaluation.num_tokens",
    "final": "aic.evaluation.final",
    "calibrated": "aic.calibrated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpanEvent:
    """Something that happened within a call."""

    name: str
    attributes: Mapping[str, AttributeValue]


def call_attributes(summary: Mapping[str, Any], *, model: str) -> dict[str, AttributeValue]:
    """Return the attributes of a call's span; what is None is left out.

    Args:
        summary: `selfeval_backend.model.Answer.summary`: what adapters give as ``best_of_n``.
        model: The name of the model that answered.
    """
    tokens = summary.get("tokens", {})
    usage = Usage(**{f.name: tokens.get(f.name, 0) for f in fields(Usage)})
    return {
        OPERATION: "chat",
        RESPONSE_MODEL: model,
        FINISH_REASONS: [
            str(sample.get("finish_reason"))
            for sample in summary.get("samples", ())
            if sample.get("fate") == "chosen"
        ],
        **_named(summary.get("policy", {}), _REQUEST),
        **_named(summary, _RESULT),
        **_named(tokens, _TOKENS),
        INPUT_TOKENS: usage.input_tokens,
        CACHED_TOKENS: usage.cached_input_tokens,
    }


def sample_events(summary: Mapping[str, Any], *, content: bool = False) -> Iterator[TraceSpanEvent]:
    """Yield one event for each sample, and behind it one for each of its self-evaluations.

    Args:
        summary: As for `call_attributes`.
        content: Whether the samples' texts are among them, where the summary has them.
    """
    texts = summary.get("texts") if content else None
    for index, sample in enumerate(summary.get("samples", ())):
        attributes = {"aic.sample.index": index, **_named(sample, _SAMPLE)}
        if texts is not None:
            attributes["aic.sample.text"] = texts[index]
        yield TraceSpanEvent(name=SAMPLE_EVENT, attributes=attributes)
        for evaluation in sample.get("evaluations", ()):
            yield TraceSpanEvent(
                name=EVALUATION_EVENT,
                attributes={
                    EVALUATION_NAME: "self_evaluation",
                    "aic.sample.index": index,
                    **_named(evaluation, _EVALUATION),
                },
            )


def _named(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, AttributeValue]:
    return {name: values[key] for key, name in names.items() if values.get(key) is not None}
