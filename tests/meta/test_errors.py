"""The tree that is drawn at the head of errors.py is the tree that is there."""

from __future__ import annotations

import inspect
import re

import pytest

from selfeval_backend import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]


def drawn() -> dict[str, str | None]:
    """Return each error of the drawing with the one that it hangs from."""
    assert errors.__doc__ is not None
    tree = errors.__doc__.partition("::\n")[2].strip("\n").partition("\n\n")[0]
    parents: dict[str, str | None] = {}
    above: dict[int, str] = {}
    for line in tree.splitlines():
        depth = len(line) - len(line.lstrip())
        names = re.findall(r"(?<![\w(])[A-Z]\w*Error\b", line)
        parent = next((above[d] for d in sorted(above, reverse=True) if d < depth), None)
        parents.update(dict.fromkeys(names, parent))
        above = {d: name for d, name in above.items() if d < depth} | {depth: names[0]}
    return parents


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_drawn_where_it_hangs(error: type[Exception]) -> None:
    parent = drawn()[error.__name__]
    assert parent in {base.__name__ for base in error.__bases__} | {None}
    assert (parent is None) == (error is errors.AICError)


def test_nothing_is_drawn_that_is_not_there() -> None:
    assert set(drawn()) == {error.__name__ for error in CLASSES} == set(errors.__all__)


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_caught_as_ours(error: type[Exception]) -> None:
    assert issubclass(error, errors.AICError)
