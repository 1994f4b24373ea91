"""A user's own functions, by import path: one importer for all that takes one."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from modulefinder import ModuleFinder
from operator import attrgetter
from pathlib import Path
from typing import Any

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.hashing import digest_of

__all__ = ["import_function", "is_own", "source_digest"]

_OWN = ("selfeval_backend", "aic_integrations")
_RACY_S = 2.0
"""Bytecode knows its source by size and second: a change within one second goes unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Imported:
    """A module as it was when it was imported."""

    digest: str
    names: frozenset[str]
    """Modules that came along."""


_imported: dict[str, _Imported] = {}


def import_function(
    field: str, reference: str, *, num_arguments: int | None = None
) -> Callable[..., Any]:
    """Import ``package.module:name``; modules of the current directory come before installed ones.

    A module that was imported here before and whose source has changed since is imported anew.

    Args:
        field: The setting that names it, for errors.
        reference: ``package.module:name``; the name may have dots, and may be anything that can be
            called: a function, a method, an object with ``__call__``.
        num_arguments: How many it will be given, in order; None: that is not checked.

    Raises:
        ConfigurationError: There is no such module or name, importing it fails, another module has
            its name, or it is nothing that can be called so.
    """
    module_name, _, name = reference.partition(":")
    _check_name(field, reference, module_name)
    _forget_if_changed(module_name)
    try:
        with _current_directory_first():
            module = importlib.import_module(module_name)
            function = attrgetter(name)(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # A user's module may raise anything when it is imported, and end the process.
        raise ConfigurationError(
            field, reference, "package.module:function", remedy=_reason(error, module_name)
        ) from error
    _remember(module_name)
    _check_callable(field, reference, function, num_arguments)
    return function  # type: ignore[no-any-return]  # what it returns is checked where it is called


def is_own(reference: str) -> bool:
    """Tell whether a reference is to this project's own code."""
    return reference.partition(":")[0].partition(".")[0] in _OWN


def source_digest(reference: str) -> str:
    """Return what changes when a function does: a hash of its module's source.

    Modules that it imports from the same folder count too. Nothing is run.

    Args:
        reference: ``package.module:name``.
    """
    files = _sources(reference.partition(":")[0])
    texts = {name: path.read_bytes().decode("utf-8", "replace") for name, path in files.items()}
    if len(texts) == 1:  # as it was hashed before helpers counted
        return digest_of(*texts.values())
    return digest_of(texts or reference)


def _check_name(field: str, reference: str, module_name: str) -> None:
    """Refuse a module of the current directory that another one hides."""
    top = module_name.partition(".")[0]
    here = _found(top, [str(Path.cwd())])
    if here is not None and here.is_dir():
        here /= "__init__.py"
    if here is None or not here.is_file():  # a folder without it hides nothing
        return
    known = sys.modules.get(top)
    origin = getattr(known, "__file__", None)
    if top in sys.stdlib_module_names:
        hidden_by = "of the standard library"
    elif known is not None and top not in _imported and origin and Path(origin) != here:
        hidden_by = str(Path(origin).parent)
    else:
        return
    raise ConfigurationError(
        field,
        reference,
        "a module whose name is free",
        remedy=f"{here} is hidden by the module {top!r} {hidden_by}: rename it.",
    )


def _check_callable(field: str, reference: str, function: Any, num_arguments: int | None) -> None:
    if isinstance(function, type):
        raise ConfigurationError(
            field, reference, "a function", remedy="It is a class: name an object of it."
        )
    if not callable(function):
        raise ConfigurationError(field, reference, f"a function, not {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(field, reference, "a function that is not async")
    if num_arguments is None:
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one that is written in C
        return
    try:
        signature.bind(*range(num_arguments))
    except TypeError as error:
        raise ConfigurationError(
            field, reference, f"a function of {num_arguments} arguments", remedy=f"It {error}."
        ) from error


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """Search the current directory first, and afterwards last.

    What is imported later, by this process's libraries, is not to be mistaken for a user's file.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _reason(error: BaseException, module_name: str) -> str:
    if isinstance(error, SyntaxError):
        where = Path(error.filename or module_name).name
        return f"{type(error).__name__} in {where}, line {error.lineno}: {error.msg}."
    if isinstance(error, ImportError | AttributeError):
        return f"{error}."
    text = " ".join(str(error).split())[:300]
    return f"Importing {module_name} raised {type(error).__name__}{': ' if text else ''}{text}."


def _found(top: str, path: list[str]) -> Path | None:
    """Return the file of a module on a path; of a package its folder."""
    spec = PathFinder.find_spec(top, path)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return None if spec.origin is None else Path(spec.origin)


def _sources(module_name: str) -> dict[str, Path]:
    """Return the source files that make up a user's module, by module name."""
    top = module_name.partition(".")[0]
    origin = _found(top, [str(Path.cwd()), *sys.path])
    if origin is None:
        return {}
    root = origin.parent
    found: dict[str, Path] = {}
    if not (top in _OWN or top in sys.stdlib_module_names or "site-packages" in root.parts):
        found = _followed(module_name, root)
    if not found:  # one that is installed, or lies in a folder without __init__.py
        path = root.joinpath(*module_name.split("."))
        files = (path.with_suffix(".py"), path / "__init__.py")
        file = next((file for file in files if file.is_file()), None)
        found = {} if file is None else {module_name: file}
    return found


def _followed(module_name: str, root: Path) -> dict[str, Path]:
    """Return a module and what it imports of its folder, by name; nothing is run."""
    finder = ModuleFinder(path=[str(root)], excludes=list(_OWN))
    with warnings.catch_warnings(), suppress(Exception):
        # What cannot be compiled, or has no loader, is told where it is imported.
        warnings.simplefilter("ignore")
        finder.import_hook(module_name)
    files = {name: getattr(module, "__file__", None) for name, module in finder.modules.items()}
    return {name: Path(file) for name, file in files.items() if file and file.endswith(".py")}


def _forget_if_changed(module_name: str) -> None:
    """Have a module imported again if its source has changed since it was imported."""
    _drop_doubtful_bytecode(module_name)
    known = _imported.get(module_name)
    if known is None or known.digest == _state(module_name):
        return
    del _imported[module_name]
    for name in known.names:
        sys.modules.pop(name, None)


def _remember(module_name: str) -> None:
    if module_name.partition(".")[0] not in _OWN:
        _imported[module_name] = _Imported(
            digest=_state(module_name), names=frozenset(_sources(module_name))
        )


def _state(module_name: str) -> str:
    """Hash where a module is, and what it is made of."""
    places = sorted(map(str, _sources(module_name).values()))
    return digest_of([places, source_digest(module_name)])


def _drop_doubtful_bytecode(module_name: str) -> None:
    """Remove bytecode that may be of an older source (see `_RACY_S`)."""
    for path in _sources(module_name).values():
        with suppress(OSError, NotImplementedError):
            compiled = Path(importlib.util.cache_from_source(str(path)))
            if compiled.stat().st_mtime - path.stat().st_mtime < _RACY_S:
                compiled.unlink()
