"""Tools and structured output: what LangChain's callers say, as forms of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.structured import FORM_KEYWORDS, form_of

__all__ = [
    "FORM_KEYWORDS",
    "Tool",
    "form_of",
    "json_parser",
    "json_schema",
    "openai_tools",
    "tool_call_parser",
]

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
"""Whatever LangChain makes a tool of."""


def openai_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return tools as OpenAI's API writes them.

    Raises:
        ConfigurationError: One of them cannot be one.
    """
    made = []
    for place, tool in enumerate(tools):
        try:
            made.append(convert_to_openai_tool(tool))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"tools[{place}]", tool, "a tool", remedy=f"LangChain says: {error}"
            ) from error
    return made


def json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return the JSON schema of whatever LangChain takes for one.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if (
        isinstance(schema, dict)
        and {"type", "$ref", "anyOf", "allOf"} & schema.keys()
        and ("function" not in schema)
    ):
        return schema
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            "schema",
            schema,
            "a pydantic class, a TypedDict or a JSON schema",
            remedy=f"LangChain says: {error}",
        ) from error


def json_parser(schema: dict[str, Any] | type | None) -> RunnableLambda[AIMessage, Any]:
    """Return what reads an answer's text: an instance of a pydantic class, else JSON as it is.

    What is cut or of another form is an OutputParserException, and no part of it is returned.
    """

    def parse(message: AIMessage) -> Any:
        text = str(message.text)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise OutputParserException(
                f"The answer is no JSON: {error}", llm_output=text
            ) from error
        return _instance(schema, value, text)

    return RunnableLambda(parse, name="AdaptiveJsonParser")


def tool_call_parser(schema: dict[str, Any] | type, name: str) -> RunnableLambda[AIMessage, Any]:
    """Return what reads the arguments of an answer's first call of a tool."""

    def parse(message: AIMessage) -> Any:
        call = next((call for call in message.tool_calls if call["name"] == name), None)
        if call is None:
            broken = message.invalid_tool_calls
            reason = broken[0]["error"] if broken else "it has none"
            raise OutputParserException(
                f"The answer has no valid call of {name}: {reason}",
                llm_output=(broken[0]["args"] if broken else None) or str(message.text),
            )
        return _instance(schema, call["args"], json.dumps(call["args"]))

    return RunnableLambda(parse, name="AdaptiveToolCallParser")


def _instance(schema: object, value: Any, text: str) -> Any:
    """Return a value as an instance of a pydantic class, of the first or second version."""
    validate = getattr(schema, "model_validate", None) or getattr(schema, "parse_obj", None)
    if not isinstance(schema, type) or validate is None:
        return value
    try:
        return validate(value)
    except (ValidationError, ValidationErrorV1) as error:
        raise OutputParserException(
            f"The answer is no {schema.__name__}: {error}", llm_output=text
        ) from error
