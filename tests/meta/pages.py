"""The pages of the project, and the code that stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.meta.source import ROOT

__all__ = ["Block", "Page", "pages"]

_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", flags=re.DOTALL)
_SNIPPET = re.compile(r'^--8<-- "(.+)"$', flags=re.MULTILINE)
_API = re.compile(r"^:::.*\n(?:[ ].*\n)*", flags=re.MULTILINE)
"""What the site puts in the place of a public name: its options look like indented code."""


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: str
    line: int
    language: str
    """"" for an indented block, or a fence that names none."""
    code: str
    not_run: str
    """Why it is not run; "" where it is."""

    def __str__(self) -> str:
        """Say where it stands."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One page of Markdown."""

    name: str
    text: str

    @property
    def blocks(self) -> list[Block]:
        """Its code, in order; what the site takes from a file stands in its place."""
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        lines = self.text.splitlines()
        before = ""
        for token in MarkdownIt("commonmark").parse(self.text):
            if token.type == "html_block":
                before = token.content
            if token.type in ("fence", "code_block"):
                assert token.map is not None
                reason = _NOT_RUN.search(before)
                yield Block(
                    page=self.name,
                    line=token.map[0] + 1,
                    language=token.info.strip(),
                    code=_SNIPPET.sub(_file, token.content),
                    not_run=reason[1] if reason else "",
                )
            if token.type != "html_block" and token.nesting >= 0:
                before = ""
        assert lines, f"{self.name} is empty"


def _file(found: re.Match[str]) -> str:
    return (ROOT / found[1]).read_text(encoding="utf-8")


def _read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    return Page(str(path.relative_to(ROOT)), _API.sub(lambda it: "\n" * it[0].count("\n"), text))


def pages() -> list[Page]:
    """Return every page that people read."""
    found = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    return [_read(path) for path in found]
