"""How ``aic doctor`` shows what it found: as one list a subject, or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from selfeval_backend.cli.console import show, show_json, show_table
from selfeval_backend.doctor import Check, Section, Status
from selfeval_backend.types import to_json

__all__ = ["print_json", "print_sections"]

_STYLES: Mapping[Status, str] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "not checked": "dim",
}


def print_json(sections: Sequence[Section]) -> None:
    """Print one JSON document on stdout."""
    document = {"ok": not _counts(sections)["failed"], "sections": to_json(tuple(sections))}
    show_json(document)


def print_sections(sections: Sequence[Section]) -> None:
    """Print each subject's checks, with what to do under those that are not well, and a verdict."""
    width = max(len(check.name) for section in sections for check in section.checks)
    for section in sections:
        show_table(Text(section.title, style="bold"))
        show_table(_listed(section.checks, name_width=width))
        show()
    show_table(Text(_verdict(_counts(sections))))


def _listed(checks: Sequence[Check], *, name_width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=max(map(len, _STYLES)) + 1)
    table.add_column(width=name_width)
    table.add_column(overflow="fold")
    for check, names in _folded(checks):
        style = _STYLES[check.status]
        faint = "dim" if check.status == "not checked" else ""
        table.add_row(
            Text(f" {check.status}", style=style),
            Text(names, style=faint),
            Text(check.found, style=faint),
        )
        if check.remedy:
            table.add_row("", "", Text(f"-> {check.remedy}", style=style))
    return table


def _folded(checks: Sequence[Check]) -> Iterator[tuple[Check, str]]:
    """Yield checks with the names of those after them that say the very same."""
    names: list[str] = []
    for check, following in zip(checks, (*checks[1:], None), strict=True):
        names.append(check.name)
        same = following is not None and (
            (check.status, check.found, check.remedy)
            == (following.status, following.found, following.remedy)
        )
        if not same:
            yield check, "\n".join(names)
            names = []


def _counts(sections: Sequence[Section]) -> Counter[Status]:
    return Counter(check.status for section in sections for check in section.checks)


def _verdict(counts: Counter[Status]) -> str:
    if not counts["failed"]:
        said = "All is well" if not counts["warning"] else "It works"
    else:
        said = "Not well"
    rest = [f"{counts[name]} {_plural(name, counts[name])}" for name in _STYLES if counts[name]]
    return f"{said}: {', '.join(rest)}."


def _plural(name: Status, count: int) -> str:
    return "warnings" if name == "warning" and count > 1 else name
