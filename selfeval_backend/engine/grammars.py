"""Grammars as engines' libraries take them."""

from __future__ import annotations

import json
from typing import TypedDict

from selfeval_backend.engine.base import Grammar

__all__ = ["LAYOUT", "Layout", "structured_outputs"]


class Layout(TypedDict):
    """White space in JSON, in llguidance's words."""

    whitespace_flexible: bool
    item_separator: str
    key_separator: str


LAYOUT = Layout(whitespace_flexible=False, item_separator=", ", key_separator=": ")
"""As `json.dumps` writes, which is what models have seen most. Where any white space is allowed, a
small model may write nothing else until its tokens are used up."""


def structured_outputs(grammar: Grammar) -> dict[str, str]:
    """Return a grammar as vLLM's `structured_outputs`.

    Its backend "guidance" reads the layout in the schema; "xgrammar", the default of a server, does
    not, and allows any white space unless the server was told otherwise.
    """
    schema = json.loads(grammar.json_schema)
    if isinstance(schema, dict):
        schema = {"x-guidance": LAYOUT, **schema}
    return {"json": json.dumps(schema)}
