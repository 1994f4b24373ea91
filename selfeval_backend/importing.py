"""A user's own functions, by import path."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfeval_backend.errors import ConfigurationError

__all__ = ["import_function", "source_of"]


def import_function(field: str, reference: str) -> Callable[..., Any]:
    """Import ``package.module:name``; modules of the current directory are found too.

    Raises:
        ConfigurationError: There is no such module or function, or it is no function.
    """
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            field, reference, "package.module:function", remedy=f"{error}."
        ) from error
    if not callable(function):
        raise ConfigurationError(field, reference, "a function")
    assert callable(function)
    return function  # type: ignore[no-any-return]  # what it returns is checked where it is called


def source_of(function: Callable[..., Any]) -> str:
    """Return the source of the module that a function is from: what a changed one is told by."""
    module = inspect.getmodule(function)
    try:
        return inspect.getsource(module or function)
    except (OSError, TypeError):
        return repr(function)
