"""Dataclasses that check themselves, and errors that say what may be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field, model_validator

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.validation import Allowed, Ascending, Probability, Share, validated


@validated
class Walk:
    """Something to set."""

    pace: Probability
    share: Share = 0.5
    steps: Annotated[int, Field(ge=1)] | None = None
    width: Annotated[float, Field(gt=0)] = 1.0
    stops: Ascending = ()
    shoes: Literal["boots", "none"] | tuple[Probability, ...] = "boots"
    dogs: Annotated[Sequence[str], Allowed("names of dogs")] = ()
    uphill: bool = False

    @model_validator(mode="after")
    def _boots_uphill(self) -> Self:
        if self.uphill and self.shoes == "none":
            raise ConfigurationError("shoes", self.shoes, "boots, uphill")
        return self


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pace": 1.5}, "pace: got 1.5, expected a number in [0, 1]."),
        ({"pace": "1"}, "pace: got '1', expected a number in [0, 1]."),
        ({"pace": float("nan")}, "pace: got nan, expected a number in [0, 1]."),
        ({}, "pace: got 'nothing', expected a number in [0, 1]."),
        ({"share": 0}, "share: got 0, expected a number in (0, 1]."),
        ({"steps": 0}, "steps: got 0, expected a whole number of at least 1."),
        ({"steps": True}, "steps: got True, expected a whole number of at least 1."),
        ({"width": 0}, "width: got 0, expected a number above 0."),
        ({"stops": (3, 3)}, "stops: got (3, 3), expected whole numbers in ascending order."),
        ({"stops": (1, "2")}, "stops: got (1, '2'), expected whole numbers in ascending order."),
        (
            {"shoes": (0.5, 2.0)},
            'shoes: got (0.5, 2.0), expected one of "boots", "none", or several: a number in '
            "[0, 1].",
        ),
        ({"dogs": 3}, "dogs: got 3, expected names of dogs."),
        ({"uphill": 1}, "uphill: got 1, expected True or False."),
        ({"uphill": True, "shoes": "none"}, "shoes: got 'none', expected boots, uphill."),
        ({"cats": 1}, "cats: got 1, expected no such field. Remove it."),
    ],
)
def test_the_first_field_that_cannot_be_used_is_named(given: dict[str, Any], message: str) -> None:
    values = given if not given or "pace" in given else {"pace": 1, **given}
    with pytest.raises(ConfigurationError) as caught:
        Walk(**values)
    assert str(caught.value) == message


def test_what_can_be_used_is_kept_as_it_was_given() -> None:
    walk = Walk(pace=1, stops=(1, 4), shoes=(0.5, 0.25), dogs=["Rex"])
    assert (walk.pace, walk.stops, walk.shoes, walk.dogs) == (1, (1, 4), (0.5, 0.25), ["Rex"])
    assert [field.name for field in fields(Walk)][:2] == ["pace", "share"]  # type: ignore[arg-type]


def test_a_copy_is_checked_too_and_nothing_changes_afterwards() -> None:
    walk = Walk(pace=0.5)
    with pytest.raises(ConfigurationError, match="steps"):
        replace(walk, steps=0)  # type: ignore[type-var]
    with pytest.raises(FrozenInstanceError):
        walk.pace = 0.1  # type: ignore[misc]
