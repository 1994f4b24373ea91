"""Between recordings, which `aic eval` makes, and the rollouts that training works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from selfeval_backend.controller import derive_seed
from selfeval_backend.evaluation.recordings import (
    PromptRecord,
    Recording,
    RecordingInfo,
    SampleRecord,
)
from selfeval_backend.rollouts import Rollout, RolloutSample, only_annealed, only_on_policy
from selfeval_backend.selfeval import SelfEvaluator

__all__ = ["recording_of", "rollouts_of"]

AnswerOf = Callable[[RolloutSample], str | None]


def recording_of(
    rollouts: Sequence[Rollout],
    evaluator: SelfEvaluator,
    *,
    num_samples: int,
    checkpoints: Sequence[int] = (),
    shaping: Mapping[str, float] = MappingProxyType({}),
    answer_of: AnswerOf | None = None,
) -> Recording:
    """Return rollouts as a recording, for every policy and rival.

    Args:
        rollouts: With `num_samples` temperature-1 samples and as many annealed ones a prompt, or
            with none of these; each in the order of drawing.
        evaluator: Of the model that drew them.
        num_samples: Of each kind.
        checkpoints: At which all samples that run on past them were evaluated.
        shaping: How tokens were drawn beside the temperature; what it does not name was not set.
        answer_of: Gives what votes are counted of; None: nothing is put to a vote.
    """
    info = RecordingInfo(
        task="rollouts",
        model="",
        engine="",
        seed=0,
        num_samples=num_samples,
        temperature=1.0,
        annealed=any(s.temperature < 1.0 for r in rollouts for s in r.samples),
        checkpoints=tuple(sorted(checkpoints)),
        max_tokens=None,
        num_question_tokens=len(evaluator.question_ids),
        selfeval=evaluator.config,
    ).model_copy(update=dict(shaping))
    prompts = zip(rollouts, only_on_policy(rollouts), only_annealed(rollouts), strict=True)
    return Recording(
        info=info,
        prompts=tuple(
            PromptRecord(
                prompt_id=f"rollout-{place}",
                prompt=rollout.prompt,
                prompt_ids=rollout.prompt_ids,
                samples=tuple(
                    _record(index, sample, answer_of)
                    for kind in kinds
                    for index, sample in enumerate(kind.samples)
                ),
            )
            for place, (rollout, *kinds) in enumerate(prompts)
        ),
    )


def _record(index: int, sample: RolloutSample, answer_of: AnswerOf | None) -> SampleRecord:
    return SampleRecord(
        index=index,
        temperature=sample.temperature,
        seed=derive_seed(0, index),
        token_ids=sample.token_ids,
        num_generated_tokens=len(sample.token_ids) + (sample.finish_reason == "stop"),
        finish_reason=sample.finish_reason,
        sum_logprob=sample.sum_logprob,
        label_logprobs={at: (win_or_tie, loss) for at, win_or_tie, loss in sample.label_logprobs},
        reward=sample.reward,
        answer=None if answer_of is None else answer_of(sample),
    )


def rollouts_of(recording: Recording) -> list[Rollout]:
    """Return the samples that were drawn at the one temperature, for `quality` to look at."""
    temperature = recording.info.temperature
    return [
        Rollout(
            prompt=prompt.prompt,
            prompt_ids=prompt.prompt_ids,
            samples=tuple(
                RolloutSample(
                    token_ids=s.token_ids,
                    finish_reason=s.finish_reason,
                    temperature=1.0,
                    reward=s.reward,
                    sum_logprob=s.sum_logprob or 0.0,
                    label_logprobs=tuple((n, *said) for n, said in s.label_logprobs.items()),
                )
                for s in prompt.samples
                if s.temperature == temperature
            ),
        )
        for prompt in recording.prompts
    ]
