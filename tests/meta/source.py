"""The packages as source: modules, their public names, and what they import where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("selfeval_backend", "aic_integrations")
"""What a user installs."""
IN_THE_REPOSITORY = ("reference_model", "benchmarks/figures")
"""What makes the reference model and the page of results: folders."""


@dataclass(frozen=True)
class Import:
    """One imported module."""

    module: str
    """Its full name."""
    names: tuple[str, ...]
    """Names taken from it; empty for the module itself."""
    late: bool
    """Whether it comes when a function runs, or for type checkers only."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    tree: ast.Module

    @property
    def public_names(self) -> list[str] | None:
        """What `__all__` lists; None where there is none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return list(ast.literal_eval(node.value))
        return None

    @property
    def bound_names(self) -> set[str]:
        """Names that the module's top level binds, under `if` and `try` too."""
        return {name for node in _top_level(self.tree) for name in _bound_by(node)}

    @property
    def imports(self) -> list[Import]:
        """Every import, wherever it stands."""
        at_once = {id(node) for node in _top_level(self.tree)}
        return [
            found
            for node in ast.walk(self.tree)
            for found in _imported_by(node, late=id(node) not in at_once)
        ]


@cache
def modules(package: str) -> tuple[Module, ...]:
    """Return all modules of a package."""
    return tuple(
        Module(_name(path), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted((ROOT / package).rglob("*.py"))
    )


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _top_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported; not what is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _top_level(child)


def _bound_by(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case _:
            return []


def _imported_by(node: ast.AST, *, late: bool) -> list[Import]:
    match node:
        case ast.Import(names=aliases):
            return [Import(alias.name, (), late) for alias in aliases]
        case ast.ImportFrom(module=str(module), names=aliases):
            return [Import(module, tuple(alias.name for alias in aliases), late)]
        case _:
            return []
