"""Values that check themselves: pydantic's frozen dataclasses, whose errors are this project's.

A field's type says what it may be, bounds among it::

    @validated
    class Settings:
        max_samples: Annotated[int, Field(ge=1)] = 16

    Settings(max_samples=0)  # ConfigurationError: max_samples: got 0, expected a whole number ...

Types are strict: "1" is no number, and neither is True.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from itertools import pairwise
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from selfeval_backend.errors import ConfigurationError

__all__ = ["Allowed", "Ascending", "Probability", "Share", "as_configuration_error", "validated"]

T = TypeVar("T")


@plain_dataclass(frozen=True, slots=True)
class Allowed:
    """Of a field's type: what may be given, in words, where its bounds do not say it."""

    phrase: str


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if not all(a < b for a, b in pairwise(values)):
        raise ValueError("they do not ascend")
    return values


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Ascending = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    AfterValidator(_ascending),
    Allowed("whole numbers in ascending order"),
]
"""Counts, each above the one before."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def validated(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass with slots and keywords alone, whose fields are checked.

    Its constructor raises ConfigurationError: the first field that cannot be used, what was given,
    and what may be. A validator of the class may raise one itself.
    """
    made: Any = dataclass(
        cls, frozen=True, slots=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid")
    )
    check = made.__init__
    hints = get_type_hints(made, include_extras=True)

    @functools.wraps(check)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            check(self, *args, **values)
        except ValidationError as error:
            raise as_configuration_error(error, hints, given=values) from error

    made.__init__ = init
    return made  # type: ignore[no-any-return]  # the class that was given, with a constructor


def as_configuration_error(
    error: ValidationError,
    hints: Mapping[str, Any] = MappingProxyType({}),
    *,
    given: Mapping[str, Any] = MappingProxyType({}),
    whole: str = "settings",
) -> ConfigurationError:
    """Return pydantic's error as ours: of its first field; others are seen once that is right.

    Args:
        error: Pydantic's.
        hints: Types of fields, to say in words what may be given; of others pydantic says it.
        given: Values of fields, to be shown whole.
        whole: The field's name where it is all of what was given.
    """
    first = error.errors()[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, ConfigurationError):
        return raised
    place = [str(part) for part in first["loc"]]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigurationError(
            ".".join(place), first["input"], "no such field", remedy="Remove it."
        )
    value = "nothing" if first["type"] == "missing" else first["input"]
    if place and place[0] in hints:  # what follows is a part of the value, or a branch of a union
        phrase = _phrase(hints[place[0]]) or first["msg"]
        return ConfigurationError(place[0], given.get(place[0], value), phrase)
    return ConfigurationError(
        ".".join(place) or whole, value, first["msg"].removeprefix("Value error, ")
    )


def _phrase(annotation: Any) -> str:
    """Say in words what a type takes; empty where it cannot be said."""
    metadata: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        metadata = tuple(part for item in rest for part in _parts(item))
    told = [item.phrase for item in metadata if isinstance(item, Allowed)]
    return told[0] if told else _phrase_of_kind(annotation, metadata)


def _phrase_of_kind(kind: Any, metadata: tuple[Any, ...]) -> str:
    inner, origin = get_args(kind), get_origin(kind)
    if origin in (Union, UnionType):
        phrases = [_phrase(one) for one in inner if one is not NoneType]
        return ", or ".join(dict.fromkeys(filter(None, phrases)))
    if origin is Literal:
        return "one of " + ", ".join(f'"{name}"' for name in inner)
    if origin is tuple:
        return f"several: {_phrase(inner[0])}"
    if kind in (int, float):
        return f"{'a whole number' if kind is int else 'a number'}{_bounds(metadata)}"
    return "True or False" if kind is bool else ""


def _parts(item: Any) -> tuple[Any, ...]:
    return tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)


def _bounds(metadata: tuple[Any, ...]) -> str:
    least = next((b.ge for b in metadata if isinstance(b, Ge)), None)
    above = next((b.gt for b in metadata if isinstance(b, Gt)), None)
    most = next((b.le for b in metadata if isinstance(b, Le)), None)
    if most is not None:
        return f" in {'[' if above is None else '('}{least if above is None else above}, {most}]"
    if above is not None:
        return f" above {above}"
    return "" if least is None else f" of at least {least}"
