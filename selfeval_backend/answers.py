"""An answer as every adapter hands it out: what it is, and all that it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from selfeval_backend.model import Answer, SelfEvaluatingModel
from selfeval_backend.types import Outcome, Usage

__all__ = ["PROVIDER", "Spent", "best_of_n", "sample_texts", "spent", "spent_of"]

PROVIDER = "adaptive-inference-compute"
"""How this project is called among providers of models."""


class Spent(TypedDict):
    """Everything that a run paid for, each token once."""

    input_tokens: int
    """What went into the model: the prompt once for each sample, what was sent again to go on with
    one, and for each self-evaluation the sequence that it was asked of."""
    output_tokens: int
    """What all samples generated."""
    total_tokens: int
    """Both together."""
    input_details: dict[str, int]
    """Parts of the input: `cache_read`, read from the KV cache, as other providers count it; and
    `self_evaluation`, computed for self-evaluations, so that no token stands in two of them."""
    output_details: dict[str, int]
    """What became of the output: `chosen`, `discarded`, `pruned`, `aborted`."""


def spent(outcome: Outcome) -> Spent:
    """Return everything that a run paid for, in the terms of the frameworks."""
    fates = {"chosen": 0, "discarded": 0, "pruned": 0, "aborted": 0}
    for sample in outcome.samples:
        fate = outcome.fate(sample.index)
        fates["discarded" if fate == "finished" else fate] += sample.num_generated_tokens
    return {**spent_of(outcome.usage), "output_details": fates}


def spent_of(usage: Usage) -> Spent:
    """Return what was paid for, of one run or a sum of several; without `output_details`."""
    self_evaluation = usage.self_evaluation_tokens + usage.cached_self_evaluation_tokens
    input_tokens = usage.prompt_tokens + usage.resent_tokens + self_evaluation
    return Spent(
        input_tokens=input_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=input_tokens + usage.generated_tokens,
        input_details={
            "cache_read": usage.cached_prompt_tokens
            + usage.cached_resent_tokens
            + usage.cached_self_evaluation_tokens,
            "self_evaluation": usage.self_evaluation_tokens,
        },
        output_details={},
    )


def best_of_n(answer: Answer, *, texts: Sequence[str] | None) -> dict[str, Any]:
    """Return how an answer was come by, in JSON types.

    Args:
        answer: It.
        texts: Of all samples, to stand in it; None: left out. See `sample_texts`.
    """
    facts = answer.summary()
    if texts is not None:
        facts["texts"] = list(texts)
    return facts


def sample_texts(answer: Answer, model: SelfEvaluatingModel) -> list[str]:
    """Return the texts of all samples, in order of drawing."""
    return [model.text(sample, answer.settings) for sample in answer.outcome.samples]
