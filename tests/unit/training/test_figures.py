"""Figures of a report, on samples made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from selfeval_backend.chat import Message
from selfeval_backend.engine.scripted import label_logprobs_of
from selfeval_backend.evaluation.tuning import Goal, find_policy
from selfeval_backend.policy import Annealed
from selfeval_backend.samples.records import PromptRecord, Recording, SampleRecord
from selfeval_backend.settings import Settings
from selfeval_backend.training.figures import measure_policies
from tests.unit.samples.recorded import info

NUM_SAMPLES = 4
NUM_TOKENS = 6
CHECKPOINT = 3


def prompt(place: int, *, right: set[int], annealed_right: set[int]) -> PromptRecord:
    """Samples of six tokens that know at three, and at the end, whether they are right."""

    def sample(index: int, temperature: float, is_right: bool) -> SampleRecord:
        prob = 0.9 if is_right else 0.2
        return SampleRecord(
            index=index,
            temperature=temperature,
            seed=index,
            # Wrong samples agree with one another, right ones too.
            token_ids=(10 + is_right, *range(20, 19 + NUM_TOKENS)),
            num_generated_tokens=NUM_TOKENS + 1,
            finish_reason="stop",
            text=str(is_right),
            reward=float(is_right),
            answer=str(is_right),
            sum_logprob=-float(index),
            label_logprobs={at: label_logprobs_of(prob) for at in (CHECKPOINT, NUM_TOKENS)},
        )

    schedule = Annealed(1.0)
    return PromptRecord(
        key=str(place),
        prompt_id=str(place),
        messages=(Message(role="user", content=f"prompt {place}"),),
        prompt_ids=(1, 2, place + 3),
        samples=(
            *(sample(k, 1.0, k in right) for k in range(NUM_SAMPLES)),
            *(sample(k, schedule.temperature(k), k in annealed_right) for k in range(NUM_SAMPLES)),
        ),
    )


def recorded(prompts: Sequence[PromptRecord]) -> Recording:
    facts = info(num_samples=NUM_SAMPLES, checkpoints=(CHECKPOINT,))
    return Recording(info=facts, prompts=tuple(prompts))


RECORDING = recorded(
    [
        prompt(0, right={1}, annealed_right={1, 3}),
        prompt(1, right={0, 2, 3}, annealed_right={0}),
        prompt(2, right=set(), annealed_right=set()),
        prompt(3, right={3}, annealed_right={2}),
    ]
)


def test_policies_by_hand() -> None:
    tuned = Settings(
        max_samples=NUM_SAMPLES, threshold=0.8, prune_at=(CHECKPOINT,), keep_fraction=(0.5,)
    )

    found = measure_policies(RECORDING, tuned, seed=0, num_resamples=50)

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


def test_without_answers_nothing_is_put_to_a_vote() -> None:
    silent = recorded(
        [
            replace(p, samples=tuple(replace(s, answer=None) for s in p.samples))
            for p in RECORDING.prompts
        ]
    )
    found = measure_policies(silent, Settings(max_samples=NUM_SAMPLES), seed=0, num_resamples=20)
    assert not any("vote" in row["method"] for row in found)


def test_a_policy_is_found_on_all_samples() -> None:
    recording = recorded(
        [prompt(k, right={k % 4}, annealed_right={(k + 1) % 4}) for k in range(12)]
    )

    found = find_policy(
        recording,
        Goal(kind="keep_quality", value=0.9),
        seed=0,
        prune_at=((CHECKPOINT,),),
    )

    assert found.settings.adaptive
    assert set(found.settings.prune_at) <= {CHECKPOINT}
    assert found.num_candidates > 50
