"""Figures of a report, on rollouts made by hand; and rollouts as recordings."""

from __future__ import annotations

import pytest

from selfeval_backend.engine.scripted import ScriptedChat, label_logprobs_of
from selfeval_backend.evaluation.choosing import Goal, find_policy
from selfeval_backend.evaluation.converting import recording_of, rollouts_of
from selfeval_backend.policy import Annealed
from selfeval_backend.rollouts import Rollout, RolloutSample, only_annealed, only_on_policy
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import Settings
from selfeval_backend.training.figures import measure_policies

NUM_SAMPLES = 4
NUM_TOKENS = 6
CHECKPOINT = 3


def rollout(place: int, *, right: set[int], annealed_right: set[int]) -> Rollout:
    """Samples of six tokens that know at three, and at the end, whether they are right."""

    def sample(index: int, temperature: float, is_right: bool) -> RolloutSample:
        prob = 0.9 if is_right else 0.2
        return RolloutSample(
            # Wrong samples agree with one another, right ones too.
            token_ids=(10 + is_right, *range(20, 19 + NUM_TOKENS)),
            finish_reason="stop",
            temperature=temperature,
            reward=float(is_right),
            sum_logprob=-float(index),
            label_logprobs=tuple((at, *label_logprobs_of(prob)) for at in (CHECKPOINT, NUM_TOKENS)),
        )

    schedule = Annealed(1.0)
    return Rollout(
        prompt=f"prompt {place}",
        prompt_ids=(1, 2, place + 3),
        samples=(
            *(sample(k, 1.0, k in right) for k in range(NUM_SAMPLES)),
            *(sample(k, schedule.temperature(k), k in annealed_right) for k in range(NUM_SAMPLES)),
        ),
    )


@pytest.fixture
def evaluator() -> SelfEvaluator:
    return SelfEvaluator(SelfEvalConfig(), ScriptedChat())


ROLLOUTS = [
    rollout(0, right={1}, annealed_right={1, 3}),
    rollout(1, right={0, 2, 3}, annealed_right={0}),
    rollout(2, right=set(), annealed_right=set()),
    rollout(3, right={3}, annealed_right={2}),
]


def test_policies_by_hand(evaluator: SelfEvaluator) -> None:
    tuned = Settings(
        max_samples=NUM_SAMPLES, threshold=0.8, prune_at=(CHECKPOINT,), keep_fraction=(0.5,)
    )

    found = measure_policies(
        ROLLOUTS,
        evaluator,
        tuned,
        answer_of=lambda s: str(s.token_ids[0]),
        seed=0,
        num_resamples=50,
    )

    rows = {row["method"]: row for row in found}
    quality = {name: row["accuracy"]["value"] for name, row in rows.items()}
    assert quality["one sample"] == pytest.approx((1 / 4 + 3 / 4 + 0 + 1 / 4) / 4)
    assert quality["greedy"] == 0.25
    for name in ("best-of-4", "adaptive", "pruning", "adaptive+pruning", "oracle of 4"):
        assert quality[name] == 0.75, name
    assert quality["log-probability of 4"] == 0.25  # the first sample of each
    assert quality["majority vote of 4"] == 0.25
    assert rows["adaptive"]["mean_samples"] == (2 + 1 + 4 + 4) / 4
    assert rows["one sample"]["generated_tokens"] == NUM_TOKENS + 1
    assert rows["one sample"]["self_evaluation_tokens"] == 0
    assert rows["best-of-4"]["tokens_saved"]["value"] == 0.0
    assert rows["pruning"]["generated_tokens"] == 2 * (NUM_TOKENS + 1) + 2 * CHECKPOINT
    assert {f"adaptive, threshold {t}" for t in (0.5, 0.99)} <= set(rows)


def test_without_answers_nothing_is_put_to_a_vote(evaluator: SelfEvaluator) -> None:
    tuned = Settings(max_samples=NUM_SAMPLES)
    found = measure_policies(ROLLOUTS, evaluator, tuned, seed=0, num_resamples=20)
    assert not any("vote" in row["method"] for row in found)


def test_rollouts_as_a_recording_and_back(evaluator: SelfEvaluator) -> None:
    recording = recording_of(
        ROLLOUTS, evaluator, num_samples=NUM_SAMPLES, checkpoints=(CHECKPOINT,)
    )

    assert recording.info.annealed
    assert recording.info.checkpoints == (CHECKPOINT,)
    assert rollouts_of(recording) == only_on_policy(ROLLOUTS)
    one_kind = only_annealed(ROLLOUTS)
    again = recording_of(one_kind, evaluator, num_samples=NUM_SAMPLES)
    assert [len(prompt.samples) for prompt in again.prompts] == [NUM_SAMPLES] * 4


def test_a_policy_is_found_on_all_rollouts(evaluator: SelfEvaluator) -> None:
    many = [rollout(k, right={k % 4}, annealed_right={(k + 1) % 4}) for k in range(12)]
    recording = recording_of(many, evaluator, num_samples=NUM_SAMPLES, checkpoints=(CHECKPOINT,))

    found = find_policy(
        recording,
        Goal(kind="keep_quality", value=0.9),
        seed=0,
        prune_at=((CHECKPOINT,),),
    )

    assert found.settings.adaptive
    assert set(found.settings.prune_at) <= {CHECKPOINT}
    assert found.num_candidates > 50
