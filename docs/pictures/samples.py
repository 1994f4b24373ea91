"""Draw the samples of one answer of the reference model, as they came: docs/pictures/samples.svg.

python docs/pictures/samples.py
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from html import escape
from pathlib import Path

from selfeval_backend import Answer, Message, load_model

PROMPT = "Use 23, 19, 5 and 3 to make 2, then 1 and 8 to make 7."
SETTINGS = {"seed": 0, "batches": (1, 4, 8), "threshold": 0.9}
OUT = Path(__file__).with_suffix(".svg")

_LEFT, _TOP, _ROW, _SCALE, _WIDTH = 96, 74, 28, 6.4, 860
_COLOURS = {"chosen": "#00897b", "finished": "#90a4ae", "pruned": "#cfd8dc", "aborted": "#cfd8dc"}
_WORDS = {"chosen": "the answer", "finished": "finished", "pruned": "pruned", "aborted": "stopped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample of the picture."""

    number: int
    temperature: float
    fate: str
    num_tokens: int
    said: tuple[tuple[int, float], ...]
    """Tokens at which it was asked, and its prob_win_or_tie there."""


async def ask() -> Answer:
    """Answer the prompt once."""
    model = load_model("reference")
    try:
        return await model.answer([Message(role="user", content=PROMPT)], model.settings(SETTINGS))
    finally:
        await model.aclose()


def rows(answer: Answer) -> list[Row]:
    """Return what is drawn of an answer."""
    return [
        Row(
            number=sample.index + 1,
            temperature=sample.temperature,
            fate=answer.outcome.fate(sample.index),
            num_tokens=sample.num_generated_tokens,
            said=tuple((e.num_tokens, e.prob_win_or_tie) for e in sample.evaluations),
        )
        for sample in answer.outcome.samples
    ]


def draw(answer: Answer) -> str:
    """Return the picture as SVG."""
    drawn = rows(answer)
    height = _TOP + _ROW * len(drawn) + 44
    usage = answer.outcome.usage
    foot = (
        f"confidence {answer.outcome.confidence:.2f} · {len(drawn)} samples · "
        f"{usage.generated_tokens} tokens generated, "
        f"{usage.self_evaluation_tokens} for self-evaluations"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" role="img">',
        f"<title>The samples of one answer: {escape(PROMPT)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        _text(16, 26, PROMPT, weight="bold"),
        _text(
            16,
            48,
            "A bar is a sample, as long as its tokens. A number is the probability that "
            "starting over would not be better.",
            colour="#546e7a",
        ),
        *(_bar(row, _TOP + _ROW * place) for place, row in enumerate(drawn)),
        _text(16, height - 14, foot),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: Row, top: float) -> str:
    end = _LEFT + row.num_tokens * _SCALE
    colour = _COLOURS[row.fate]
    marks = "".join(
        f'<circle cx="{_LEFT + at * _SCALE:.0f}" cy="{top + 9}" r="4" fill="#ffffff" '
        f'stroke="#37474f"/>'
        + _text(_LEFT + at * _SCALE - 36, top + 13, f"{prob:.2f}", colour="#263238")
        for at, prob in row.said
    )
    return (
        _text(16, top + 13, f"{row.number}: T = {row.temperature:.2f}", colour="#546e7a")
        + f'<rect x="{_LEFT}" y="{top}" width="{end - _LEFT:.0f}" height="18" rx="3" '
        f'fill="{colour}" fill-opacity="0.75"/>'
        + marks
        + _text(end + 12, top + 13, _WORDS[row.fate], weight="bold" if row.fate == "chosen" else "")
    )


def _text(x: float, y: float, text: str, *, colour: str = "#263238", weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}"{bold}>{escape(text)}</text>'


def main() -> None:
    """Ask, and write the picture."""
    OUT.write_text(draw(asyncio.run(ask())), encoding="utf-8")


if __name__ == "__main__":
    main()
