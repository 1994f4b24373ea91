"""Samples and prompts of the tests' tables, with what a test does not look at filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.signals.records import QUESTIONS, Prompt, Sample


def sample(
    response: str = "",
    *,
    answer: str | None = None,
    reward: float = 0.0,
    ended: bool = True,
    logprobs: Sequence[float] = (-1.0,),
    entropies: Sequence[float] = (1.0,),
    self_certainties: Sequence[float] = (1.0,),
    log_odds: Mapping[str, float] | None = None,
) -> Sample:
    return Sample(
        response=response,
        final_answer=answer,
        reward=reward,
        ended=ended,
        logprobs=np.array(logprobs),
        entropies=np.array(entropies),
        self_certainties=np.array(self_certainties),
        log_odds=dict.fromkeys(QUESTIONS, 0.0) | dict(log_odds or {}),
    )


def prompt(*samples: Sample, part: str = "seen", kind: str = "sum") -> Prompt:
    return Prompt(part=part, kind=kind, samples=samples)
