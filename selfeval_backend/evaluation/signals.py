"""What rivals may look at beside a sample's self-evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.selfeval import raw_prob_win_or_tie
from selfeval_backend.types import Sample

__all__ = ["LiveSignals", "RecordedSignals", "Signal", "Signals"]

T = TypeVar("T")

Signal = Literal[
    "answer", "reward", "sum_logprob", "token_confidences", "self_certainty", "untrained_logprobs"
]
"""Columns of a recording that a method may need: names of `SampleRecord`'s fields."""


class Signals(Protocol):
    """Facts of one prompt's samples."""

    def answer(self, sample: Sample) -> str | None:
        """Return what a finished sample comes to; None where it comes to nothing."""
        ...

    def reward(self, sample: Sample) -> float:
        """Return what a finished sample is worth: for the oracle alone."""
        ...

    def mean_logprob(self, sample: Sample) -> float:
        """Return the mean log-probability of a finished sample's tokens."""
        ...

    def token_confidences(self, sample: Sample) -> Sequence[float]:
        """Return one confidence for each token generated so far."""
        ...

    def self_certainty(self, sample: Sample) -> float:
        """Return the self-certainty of a finished sample."""
        ...

    def prob_right_untrained(self, sample: Sample) -> float:
        """Return p(yes) of the question that no model was trained on."""
        ...


class RecordedSignals:
    """Of the samples of one recorded prompt.

    Args:
        find: Gives the record of a sample.
    """

    def __init__(self, find: Callable[[Sample], SampleRecord]) -> None:
        self._find = find

    def answer(self, sample: Sample) -> str | None:
        """Return the recorded answer."""
        return self._find(sample).answer

    def reward(self, sample: Sample) -> float:
        """Return the recorded reward."""
        return self._find(sample).reward

    def mean_logprob(self, sample: Sample) -> float:
        """Return the mean over generated tokens.

        Raises:
            DatasetError: It was not recorded.
        """
        record = self._find(sample)
        return _needed(record.sum_logprob, "sum_logprob") / record.num_generated_tokens

    def token_confidences(self, sample: Sample) -> Sequence[float]:
        """Return those of the tokens generated so far.

        Raises:
            DatasetError: They were not recorded.
        """
        confidences = _needed(self._find(sample).token_confidences, "token_confidences")
        return confidences[: sample.num_generated_tokens]

    def self_certainty(self, sample: Sample) -> float:
        """Return the recorded one.

        Raises:
            DatasetError: It was not recorded.
        """
        return _needed(self._find(sample).self_certainty, "self_certainty")

    def prob_right_untrained(self, sample: Sample) -> float:
        """Return p(yes) / (p(yes) + p(no)).

        Raises:
            DatasetError: It was not recorded.
        """
        yes, no = _needed(self._find(sample).untrained_logprobs, "untrained_logprobs")
        return raw_prob_win_or_tie(yes, no)


def _needed(value: T | None, name: Signal) -> T:
    if value is None:
        raise DatasetError(f"the recording has no {name}: record it, or leave the method out")
    return value


class LiveSignals:
    """Of samples as they are drawn: answers alone.

    Args:
        answer_of: Decodes a response and extracts its answer.
    """

    def __init__(self, answer_of: Callable[[Sample], str | None]) -> None:
        self._answer_of = answer_of

    def answer(self, sample: Sample) -> str | None:
        """Return the answer of a finished sample."""
        return self._answer_of(sample)

    def reward(self, sample: Sample) -> float:
        """Refuse: nobody knows it."""
        raise _replay_only("reward")

    def mean_logprob(self, sample: Sample) -> float:
        """Refuse: a live run does not ask for log-probabilities."""
        raise _replay_only("sum_logprob")

    def token_confidences(self, sample: Sample) -> Sequence[float]:
        """Refuse: engines do not report them."""
        raise _replay_only("token_confidences")

    def self_certainty(self, sample: Sample) -> float:
        """Refuse: engines do not report it."""
        raise _replay_only("self_certainty")

    def prob_right_untrained(self, sample: Sample) -> float:
        """Refuse: a live run asks the model's own question alone."""
        raise _replay_only("untrained_logprobs")


def _replay_only(name: Signal) -> ConfigurationError:
    return ConfigurationError("methods", name, "methods that need answers at most, with --live")
