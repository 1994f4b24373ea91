"""What rivals may look at beside a sample's self-evaluations: its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.records import SampleRecord
from selfeval_backend.types import Sample

__all__ = ["Signal", "Signals", "known"]

T = TypeVar("T")

Signal = Literal[
    "answer", "reward", "sum_logprob", "token_confidences", "self_certainty", "untrained_logprobs"
]
"""Fields of a record that a method may need."""

Signals = Callable[[Sample], SampleRecord]
"""Gives the record of a sample of one prompt. A live run knows the answer alone."""


def known(value: T | None, name: Signal) -> T:
    """Return a field of a record that a method needs.

    Raises:
        DatasetError: It was not recorded.
    """
    if value is None:
        raise DatasetError(f"the recording has no {name}: record it, or leave the method out")
    return value
