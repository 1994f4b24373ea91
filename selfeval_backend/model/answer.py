"""An answer on its way out: what a caller gets, and what it is told of how it was come by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfeval_backend.chat import Parsed
from selfeval_backend.settings import Settings
from selfeval_backend.types import Outcome, TrustLevel, to_json

__all__ = ["Answer", "ReasoningPiece"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A chosen response, and all about how it was come by."""

    text: str
    """Of the chosen sample."""
    model: str
    """The model's name."""
    engine: str
    """The engine's name."""
    settings: Settings
    """As they were resolved."""
    seed: int
    """Of the run: with the same model, engine and settings it gives the same answer."""
    outcome: Outcome
    """The samples, which one was chosen and why, and what it all cost."""
    level: TrustLevel
    """What is known of the model's self-evaluation. "unknown": the answer is the greedy sample."""
    parsed: Parsed | None = None
    """What was found in the chosen sample; None where no form was asked for."""

    @property
    def no_confidence(self) -> str | None:
        """Why there is no confidence; None where there is one."""
        if self.outcome.confidence is not None:
            return None
        if self.level == "unknown":
            return "the model has no selfeval.json: it was not trained to evaluate itself"
        return f"the chosen sample was not asked ({self.outcome.stop_reason})"

    def summary(self, *, texts: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what a caller wants to know, in JSON types: confidence, samples, tokens, policy.

        ``policy_sources`` says where each setting of ``policy`` is from that is no default.

        Args:
            texts: Of all samples (`SelfEvaluatingModel.texts`), to stand in it; None: left out.
        """
        outcome = self.outcome
        best = outcome.best_sample
        facts = {
            "confidence": outcome.confidence,
            "calibrated": outcome.calibrated,
            "level": self.level,
            "no_confidence": self.no_confidence,
            "stop_reason": outcome.stop_reason,
            "fault": outcome.trace.fault,
            "num_samples": len(outcome.samples),
            "valid": best.valid,
            "num_invalid": sum(s.valid is False for s in outcome.samples),
            "samples": [_describe(outcome, index) for index in range(len(outcome.samples))],
            "tokens": {
                "chosen": best.num_generated_tokens,
                "total": outcome.usage.total_tokens,
                **to_json(outcome.usage),
            },
            "policy": {**to_json(self.settings.values), "seed": self.seed},
            "policy_sources": {k: s for k, s in self.settings.sources.items() if s != "default"},
            "engine": self.engine,
        }
        return facts if texts is None else {**facts, "texts": list(texts)}


class ReasoningPiece(str):
    """A piece of a streamed answer that is reasoning, and no part of its text."""

    __slots__ = ()


def _describe(outcome: Outcome, index: int) -> dict[str, Any]:
    sample = outcome.samples[index]
    return {
        "temperature": sample.temperature,
        "generated_tokens": sample.num_generated_tokens,
        "finish_reason": sample.finish_reason,
        "valid": sample.valid,
        "beyond_training": sample.beyond_training,
        "fate": outcome.fate(index),
        "evaluations": to_json(sample.evaluations),
    }
