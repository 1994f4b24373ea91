"""Run settings on recorded rollouts: the real policies and the real loop, with no model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from selfeval_backend.controller import run
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.replay import RecordedSample, ReplayEngine
from selfeval_backend.evaluation.metrics import PromptResult
from selfeval_backend.rollouts import Rollout, RolloutSample
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings
from selfeval_backend.types import Outcome

__all__ = ["replay"]


def replay(
    rollouts: Sequence[Rollout],
    settings: Settings,
    evaluator: SelfEvaluator,
    *,
    evaluate: bool = True,
) -> list[PromptResult]:
    """Answer every recorded prompt under these settings.

    Samples are handed out in the order of the recording, so record at the temperatures that the
    settings would draw at.

    Args:
        rollouts: With label log-probabilities at every checkpoint and at the end.
        settings: Of the policy.
        evaluator: Of the model that was recorded.
        evaluate: False: one sample needs no choosing, and pays for no self-evaluation.
    """
    return asyncio.run(_replay_all(rollouts, settings, evaluator, evaluate))


async def _replay_all(
    rollouts: Sequence[Rollout], settings: Settings, evaluator: SelfEvaluator, evaluate: bool
) -> list[PromptResult]:
    engine = ReplayEngine({r.prompt_ids: [_recorded(s) for s in r.samples] for r in rollouts})
    longest = max(len(s.token_ids) for r in rollouts for s in r.samples) + 1
    results = []
    for rollout in rollouts:
        outcome = await run(
            rollout.prompt_ids,
            engine=engine,
            evaluator=evaluator,
            policy=settings.policy(),
            limits=settings.limits(),
            sampling=SamplingParams(
                temperature=1.0,
                max_tokens=max(longest, *settings.prune_at, 0) + 1,
                seed=0,
                stop_token_ids=frozenset(),
            ),
        )
        results.append(_result(rollout, outcome, evaluate))
    return results


def _recorded(sample: RolloutSample) -> RecordedSample:
    ended = sample.finish_reason == "stop"
    return RecordedSample(
        token_ids=sample.token_ids,
        finish_reason=sample.finish_reason,
        num_generated_tokens=len(sample.token_ids) + ended,
        label_logprobs={n: (win, loss) for n, win, loss in sample.label_logprobs},
        sum_logprob=sample.sum_logprob,
    )


def _result(rollout: Rollout, outcome: Outcome, evaluate: bool) -> PromptResult:
    return PromptResult(
        reward=rollout.samples[outcome.best].reward,
        num_samples=len(outcome.samples),
        generated_tokens=outcome.usage.generated_tokens,
        self_evaluation_tokens=outcome.usage.self_evaluation_tokens if evaluate else 0,
    )
