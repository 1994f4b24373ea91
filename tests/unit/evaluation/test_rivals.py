"""Rivals choose and stop as their papers say, on cases worked out by hand."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.metrics import PromptResult
from selfeval_backend.evaluation.replaying import replay_methods
from selfeval_backend.evaluation.rivals import (
    AdaptiveConsistency,
    DeepConfidence,
    EarlyStoppingConsistency,
    MajorityVote,
    MeanLogprob,
    Oracle,
    RandomChoice,
    Rival,
    SelfCertainty,
    UntrainedQuestion,
    WeightedVote,
)
from selfeval_backend.evaluation.rivals.adaptive_consistency import prob_majority_holds
from selfeval_backend.evaluation.rivals.deep_confidence import lowest_group_confidence
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.settings import Settings
from tests.unit.samples.recorded import recording, sample


def answered(rival: Rival, samples: list[SampleRecord]) -> PromptResult:
    method = Method(
        name="rival",
        settings=Settings(max_samples=len(samples), adaptive=False, annealing="constant"),
        rival=rival,
    )
    ((result,),) = replay_methods(recording(samples), [method])
    return result


def samples_of(
    answers: str, *, probs: tuple[float, ...] = (), confidences: tuple[float, ...] = ()
) -> list[SampleRecord]:
    """One sample an answer ("-" abstains); each is worth a reward of its own: 0.01 * index."""
    return [
        sample(
            index,
            [probs[index] if probs else 0.5] * 8,
            reward=index / 100,
            answer=None if answer == "-" else answer,
            token=100 * index,
            confidence=confidences[index] if confidences else 1.0,
        )
        for index, answer in enumerate(answers)
    ]


def test_votes() -> None:
    assert answered(MajorityVote(), samples_of("abcbc")).reward == 0.01  # a tie: the earlier one
    assert answered(MajorityVote(), samples_of("a--bb")).reward == 0.03  # abstentions do not count
    assert answered(MajorityVote(), samples_of("---")).reward == 0.0
    weighted = answered(WeightedVote(), samples_of("aab", probs=(0.2, 0.3, 0.9)))
    assert weighted.reward == 0.02
    outvoted = answered(WeightedVote(), samples_of("aab", probs=(0.5, 0.6, 0.9)))
    assert outvoted.reward == 0.01  # the best sample of the answer with most weight


def test_choices() -> None:
    drawn = samples_of("abc", probs=(0.9, 0.1, 0.2), confidences=(1.0, 3.0, 2.0))
    assert answered(Oracle(), drawn).reward == 0.02
    assert answered(RandomChoice(), drawn).reward == pytest.approx(0.01)
    assert answered(MeanLogprob(), drawn).reward == 0.0  # the mean falls with the index
    assert answered(SelfCertainty(), drawn).reward == 0.01
    assert answered(UntrainedQuestion(), drawn).reward == 0.0


def test_only_who_asks_pays_for_asking() -> None:
    drawn = samples_of("abc")
    for rival in (Oracle(), MajorityVote(), MeanLogprob(), SelfCertainty(), RandomChoice()):
        result = answered(rival, drawn)
        assert (result.generated_tokens, result.self_evaluation_tokens) == (27, 0)
    for asker in (UntrainedQuestion(), WeightedVote()):
        assert answered(asker, drawn).self_evaluation_tokens > 0


def test_adaptive_consistency_stops_when_the_majority_is_safe() -> None:
    # Beta(n + 1, 1) has 1 - 2**-(n + 1) of its mass above one half: 0.969 after four votes.
    assert answered(AdaptiveConsistency(), samples_of("aaaaaa")).num_samples == 4
    # The fifth "a" against one "b": 1 - (1 + 7) / 2**7 = 0.9375; the sixth: 0.965.
    assert answered(AdaptiveConsistency(), samples_of("abaaaaaa")).num_samples == 7
    assert answered(AdaptiveConsistency(), samples_of("ababab")).num_samples == 6
    assert answered(AdaptiveConsistency(), samples_of("------")).num_samples == 6


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_beta_criterion(first: int, second: int) -> None:
    held = prob_majority_holds(first, second)
    n = first + second + 1
    assert held == pytest.approx(1 - sum(comb(n, k) for k in range(first + 1, n + 1)) / 2**n)
    assert held + prob_majority_holds(second, first) == pytest.approx(1.0)


def test_early_stopping_waits_for_a_window_of_one_answer() -> None:
    assert answered(EarlyStoppingConsistency(window=2), samples_of("abaacc")).num_samples == 4
    assert answered(EarlyStoppingConsistency(window=2), samples_of("ababab")).num_samples == 6
    assert answered(EarlyStoppingConsistency(window=4), samples_of("abab-b")).num_samples == 6
    assert answered(EarlyStoppingConsistency(window=2), samples_of("--aa")).num_samples == 4


def test_deep_confidence_stops_samples_below_the_bar() -> None:
    rival = DeepConfidence(warmup=2, keep=0.5, window=2, stride=2, last_checkpoint=6, consensus=1.0)
    drawn = samples_of("abcdef", confidences=(1.0, 2.0, 1.5, 3.0, 1.0, 2.0))

    result = answered(rival, drawn)

    # The bar is the median of the warm-up, 2.0: samples 2 and 4 fall at their first look.
    assert result.num_samples == 6
    assert result.generated_tokens == 4 * 9 + 2 * 2
    assert result.reward == 0.03  # the most confident of four that voted each for its own


def test_deep_confidence_stops_at_a_consensus() -> None:
    rival = DeepConfidence(warmup=2, window=2, stride=2, last_checkpoint=6)
    assert answered(rival, samples_of("aabbbb")).num_samples == 2
    assert answered(rival, samples_of("abaaaa")).num_samples == 6


def test_lowest_group_confidence() -> None:
    assert lowest_group_confidence([3.0, 1.0, 2.0, 6.0], 2) == 1.5
    assert lowest_group_confidence([3.0, 1.0], 5) == 2.0
    assert lowest_group_confidence([4.0, 4.0, 1.0], 1) == 1.0
