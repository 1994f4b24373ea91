"""``aic models`` and ``aic pull``: what can be had by name, how it comes, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from selfeval_backend.cli.console import plain_table, show, show_json, show_table
from selfeval_backend.cli.fetching import fetch_shown
from selfeval_backend.cli.running import note, one_line_errors
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model_store import (
    KNOWN,
    KnownModel,
    Package,
    fetch_model,
    is_here,
    known_model,
    remove_model,
)

__all__ = ["list_models", "models", "pull", "remove"]

_Name = Annotated[str, typer.Argument(help="Of a model that `aic models` lists.", metavar="NAME")]

models = typer.Typer(
    help="List the models that can be had by name, or remove one.", rich_markup_mode=None
)


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models that can be had by name. Folders and models of the hub need no name."""
    if context.invoked_subcommand is not None:
        return
    with one_line_errors():
        rows = [_facts(model) for model in KNOWN.values()]
        if as_json:
            show_json({"models": rows})
        else:
            _show_rows(rows)


@models.command("remove")
def remove(name: _Name) -> None:
    """Remove a fetched model from this machine."""
    with one_line_errors():
        gone = remove_model(_known(name))
        note(f"{name} is removed" if gone else f"{name} is not on this machine")


def pull(name: _Name) -> None:
    """Fetch a model, if it is not here yet, and print its folder."""
    with one_line_errors():
        show(fetch_shown(_known(name)))


def _known(name: str) -> KnownModel:
    model = known_model(name)
    if model is None:
        raise ConfigurationError(
            "name",
            name,
            f"one of {', '.join(KNOWN)}",
            remedy="A folder or a model of the hub is named as it is, where a model is asked for.",
        )
    return model


def _facts(model: KnownModel) -> dict[str, Any]:
    folder = fetch_model(model) if is_here(model) else None
    source, num_bytes = _origin(model)
    return {
        "name": model.name,
        "about": model.about,
        "license": model.license,
        "languages": list(model.languages),
        "num_bytes": num_bytes,
        "source": source,
        "original": model.original,
        "self_evaluation": model.self_evaluation,
        "here": folder is not None,
        "folder": None if folder is None else str(folder),
    }


def _origin(model: KnownModel) -> tuple[str, int]:
    """Return where a model comes from, and the size of its folder."""
    if isinstance(model.source, Package):
        return f"package {model.source}", model.source.folder_bytes
    return "this project", sum(path.stat().st_size for path in model.source.iterdir())


def _show_rows(rows: list[dict[str, Any]]) -> None:
    table = plain_table()
    for name in ("name", "license", "size", "languages", "self-evaluation", "from", "here"):
        table.add_column(name)
    for row in rows:
        table.add_row(*_cells(row))
    show_table(table)
    show()
    for row in rows:
        show(f"{row['name']}: {row['about']}.")
        if row["original"]:
            show(f"  Made of {row['original']}, whose own weights can be named too.")


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["name"]
    yield row["license"]
    yield f"{row['num_bytes'] / 1e6:.0f} MB"
    yield ", ".join(row["languages"]) or "none"
    yield row["self_evaluation"]
    yield row["source"]
    yield "yes" if row["here"] else "not yet"
