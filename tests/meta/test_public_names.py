"""What modules say that they offer."""

from __future__ import annotations

from importlib import import_module

import pytest

import selfeval_backend
from tests.meta.source import IN_THE_REPOSITORY, PACKAGES, Module, modules

LATE = ("selfeval_backend", "aic_integrations.langchain")
"""Packages whose names come when they are asked for."""

WITH_NAMES = [
    module
    for package in (*PACKAGES, *IN_THE_REPOSITORY)
    for module in modules(package)
    if module.public_names is not None and module.name not in LATE
]


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: as ruff sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", WITH_NAMES, ids=lambda module: module.name)
def test_all_is_real_and_sorted(module: Module) -> None:
    names = module.public_names
    assert names is not None
    assert set(names) <= module.bound_names
    assert names == sorted(set(names), key=order)
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("package", [*PACKAGES, *IN_THE_REPOSITORY])
def test_every_module_with_definitions_has_all(package: str) -> None:
    without = [
        module.name
        for module in modules(package)
        if module.public_names is None
        and not module.name.endswith("__main__")
        and any(not name.startswith("_") for name in module.bound_names - {"annotations"})
    ]
    assert without == []


@pytest.mark.parametrize("package", LATE)
def test_the_names_of_a_package_come_when_asked_for(package: str) -> None:
    module = import_module(package)
    names = module.__all__
    assert names == sorted(names, key=order)
    for name in set(names) - {"__version__"}:
        assert getattr(module, name).__name__ == name
    assert set(names) <= set(dir(module))
    assert isinstance(selfeval_backend.__version__, str)


@pytest.mark.parametrize("package", LATE)
def test_a_misspelt_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        import_module(package).load_modle  # noqa: B018  # on purpose


def test_every_error_is_a_name_of_the_package() -> None:
    from selfeval_backend import errors

    assert set(errors.__all__) <= set(selfeval_backend.__all__)
