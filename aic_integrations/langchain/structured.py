"""Tools and structured output: what LangChain's callers say, as forms of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, get_args

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import (
    Runnable,
    RunnableLambda,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from selfeval_backend.chat import FORM_KEYWORDS, form_of, read_json
from selfeval_backend.errors import ConfigurationError

__all__ = [
    "FORM_KEYWORDS",
    "Method",
    "Tool",
    "check_method",
    "forced_call",
    "form_of",
    "json_parser",
    "json_schema",
    "openai_tools",
    "parsed_by",
    "tool_call_parser",
]

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
"""Whatever LangChain makes a tool of."""


Method = Literal["json_schema", "function_calling", "json_mode"]
"""How LangChain calls the ways to structured output."""


def check_method(method: str) -> None:
    """Refuse a way to structured output that there is not.

    Raises:
        ConfigurationError: It is unknown.
    """
    if method not in get_args(Method):
        raise ConfigurationError("method", method, f"one of {', '.join(get_args(Method))}")


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
            value = read_json(text)
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


def forced_call(
    bind_tools: Callable[..., Runnable[LanguageModelInput, AIMessage]],
    schema: dict[str, Any] | type,
    *,
    include_raw: bool,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return a model whose answers are the arguments of a tool that it must call.

    Args:
        bind_tools: The model's.
        schema: Of the tool, which is made of it.
        include_raw: As for `parsed_by`.
        kwargs: For `bind_tools`.

    Raises:
        ConfigurationError: The schema is none.
    """
    (tool,) = openai_tools([schema])
    name = tool["function"]["name"]
    traced = {"kwargs": {"method": "function_calling"}, "schema": schema}
    llm = bind_tools([tool], tool_choice=name, ls_structured_output_format=traced, **kwargs)
    return parsed_by(llm, tool_call_parser(schema, name), include_raw=include_raw)


def parsed_by(
    llm: Runnable[LanguageModelInput, AIMessage],
    parser: Runnable[AIMessage, Any],
    *,
    include_raw: bool,
) -> Runnable[LanguageModelInput, Any]:
    """Return a model with a parser behind it.

    Args:
        llm: The model.
        parser: Of its messages.
        include_raw: Whether it gives the message too, and an error instead of raising it.
    """
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


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
