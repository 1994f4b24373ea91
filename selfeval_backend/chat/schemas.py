"""JSON schemas, made ready to draw samples under them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfeval_backend.chat.messages import ToolSpec

__all__ = ["MOST_CALLS", "call_schema", "closed"]

MOST_CALLS = 8
"""Of one response, where several are allowed: a small model might never stop."""

_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_WHOLES = ("additionalProperties", "items", "prefixItems", "anyOf", "oneOf")
_PARTS = ("allOf", "not", "if", "then", "else", "dependentSchemas", "contains", "propertyNames")
"""Schemas that say a part of what another one says."""
_OPENERS = (
    *("additionalProperties", "unevaluatedProperties", "patternProperties", "$ref"),
    *("allOf", "anyOf", "oneOf", "if", "dependentSchemas"),
)
"""Where one of them stands beside `properties`, other properties are not ours to forbid."""


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have the properties that they name, and no others.

    JSON Schema allows others if not told otherwise, and a model under that grammar may add them
    without end. Objects that say something of others are left as they are.
    """

    def close(part: dict[str, Any]) -> dict[str, Any]:
        if isinstance(part.get("properties"), dict) and not any(key in part for key in _OPENERS):
            return {**part, "additionalProperties": False}
        return part

    return _rewritten(schema, close, keep=_PARTS)


def call_schema(tools: Sequence[ToolSpec], *, parallel: bool) -> dict[str, Any]:
    """Return the schema of a call of one of these tools, or of a list of calls too.

    A call is ``{"name": ..., "arguments": {...}}``.

    Args:
        tools: At least one.
        parallel: Whether a response may have several calls.
    """
    definitions: dict[str, Any] = {}
    calls = []
    for place, tool in enumerate(tools):
        arguments = closed({"type": "object", "properties": {}, **tool.parameters})
        if '"$ref"' in json.dumps(arguments, default=str):
            # Its references count from the root, which is no longer its own.
            definitions[str(place)] = _moved(arguments, f"#/$defs/{place}")
            arguments = {"$ref": f"#/$defs/{place}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if not parallel:
        return {**one, **({"$defs": definitions} if definitions else {})}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_CALLS}
    return {"anyOf": [*calls, several], **({"$defs": definitions} if definitions else {})}


def _moved(schema: dict[str, Any], place: str) -> dict[str, Any]:
    def move(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            return {**part, "$ref": place + reference[1:]}
        return part

    return _rewritten(schema, move)


def _rewritten(
    schema: Mapping[str, Any],
    rewrite: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    keep: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a schema with every schema in it rewritten; constants and examples are left alone.

    Args:
        schema: Left as it is.
        rewrite: Returns a schema in place of another.
        keep: Keywords whose schemas are left alone too.
    """

    def walk(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return [walk(item) for item in part]
        return _rewritten(part, rewrite, keep=keep) if isinstance(part, Mapping) else part

    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in keep:
            made[key] = value
        elif key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            made[key] = {name: walk(item) for name, item in value.items()}
        else:
            made[key] = walk(value) if key in (*_WHOLES, *_PARTS) else value
    return rewrite(made)
