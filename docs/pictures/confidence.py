"""Draw what the confidence is and what it is not, from the table of skills: confidence.svg.

    python docs/pictures/confidence.py

The figures are read from docs/findings.md, so that picture and table cannot differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

OUT = Path(__file__).with_suffix(".svg")
PAGE = Path(__file__).parents[1] / "findings.md"

_HEAD = "| 100 held-out prompts each |"
_LEFT, _TOP, _ROW, _SCALE, _WIDTH = 190, 88, 30, 560, 860
_LEGEND = (190, 350, 590)
_MARKS = {
    "right": ("#c62828", "the answer is right"),
    "not_better": ("#546e7a", "a fresh sample is not better"),
    "confidence": ("#00897b", "confidence"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One row of the table."""

    name: str
    right: float
    """Share of the adaptive answers that are right."""
    confidence: float
    """In the mean."""
    not_better: float
    """Share of fresh samples that are not better."""


def skills(page: str) -> list[Skill]:
    """Read the table of skills on a page."""
    lines = page[page.index(_HEAD) :].split("\n\n", maxsplit=1)[0].splitlines()
    columns = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    return [_skill(dict(zip(columns, line.split("|")[1:-1], strict=True))) for line in lines[2:]]


def _skill(row: dict[str, str]) -> Skill:
    return Skill(
        name=row["100 held-out prompts each"].strip(),
        right=_value(row["adaptive"]),
        confidence=_value(row["confidence"]),
        not_better=_value(row["a fresh one is not better"]),
    )


def _value(cell: str) -> float:
    found = re.match(r"\s*(\d\.\d+) ±", cell)
    assert found is not None, f"no figure in {cell!r}"
    return float(found[1])


def draw(rows: list[Skill]) -> str:
    """Return the picture as SVG."""
    height = _TOP + _ROW * len(rows) + 40
    legend = "".join(
        _dot(x, 48, colour) + _text(x + 12, 52, words)
        for x, (colour, words) in zip(_LEGEND, _MARKS.values(), strict=True)
    )
    axis = "".join(
        f'<line x1="{_at(share)}" x2="{_at(share)}" y1="{_TOP - 14}" y2="{height - 34}" '
        'stroke="#eceff1"/>' + _text(_at(share) - 10, height - 14, f"{share:.1f}")
        for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    )
    body = [_line(row, _TOP + _ROW * place) for place, row in enumerate(rows)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="13" role="img">',
            "<title>The confidence beside what it promises, and beside being right</title>",
            f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            _text(
                16,
                26,
                "The confidence says that starting over would not help. It does not say "
                "that the answer is right.",
                weight="bold",
            ),
            legend,
            axis,
            *body,
            "</svg>\n",
        ]
    )


def _line(row: Skill, y: float) -> str:
    dots = "".join(_dot(_at(getattr(row, name)), y, colour) for name, (colour, _) in _MARKS.items())
    line = f'<line x1="{_at(0.4)}" x2="{_at(1.0)}" y1="{y}" y2="{y}" stroke="#cfd8dc"/>'
    return _text(16, y + 5, row.name) + line + dots


def _at(share: float) -> float:
    """Return where a share lies; the axis begins at 0.4."""
    return round(_LEFT + (share - 0.4) / 0.6 * _SCALE, 1)


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="6" fill="{colour}" fill-opacity="0.85"/>'


def _text(x: float, y: float, text: str, *, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="#263238"{bold}>{escape(text)}</text>'


def main() -> None:
    """Read the table, and write the picture."""
    OUT.write_text(draw(skills(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
