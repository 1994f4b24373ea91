"""What a sample's text must be, as a model writes it under a form and as an engine draws it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfeval_backend.errors import ConfigurationError

__all__ = ["Grammar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What a sample's text must be: tokens that lead elsewhere are never drawn.

    A sample that ends by itself is whole; one that `max_tokens` or a stop string cuts is only the
    beginning of such a text.
    """

    json_schema: str
    """A JSON schema, as JSON. The text is one value of it, with no more white space than a space
    behind each comma and colon; a vLLM server may allow more."""

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of a JSON schema; the order of its properties is that of the text.

        Raises:
            ConfigurationError: It cannot be written as JSON.
        """
        try:
            return cls(json_schema=json.dumps(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(
                "schema", schema, "a JSON schema", remedy=f"It is no JSON: {error}."
            ) from error
