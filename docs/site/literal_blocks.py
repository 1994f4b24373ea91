"""Code in docstrings, for the site: a line of two colons and an indented block become a fence."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["LiteralBlocks", "with_fences"]

_LITERAL = re.compile(r"^(?P<text>.*)::\n\n(?P<code>(?:    .*\n|\n)*    .*)$", flags=re.MULTILINE)


def with_fences(docstring: str) -> str:
    """Return a docstring whose literal blocks are fenced, as Markdown has them."""
    return _LITERAL.sub(_fence, docstring)


def _fence(found: re.Match[str]) -> str:
    code = re.sub(r"^    ", "", found["code"], flags=re.MULTILINE)
    text = f"{found['text']}:\n\n" if found["text"] else ""
    return f"{text}```python\n{code}\n```"


class LiteralBlocks(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring, if there is one."""
        if obj.docstring is not None:
            obj.docstring.value = with_fences(obj.docstring.value)
