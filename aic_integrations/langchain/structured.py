"""Tools and structured output: what LangChain's callers say, as forms of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from selfeval_backend.chat import ToolSpec
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.structured import AnswerForm, JsonForm, ToolForm

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

FORM_KEYWORDS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Keywords of a call that say what the answer must be."""

_CHOICES = {"any": "required", True: "required", False: "none", None: "auto"}


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


def form_of(asked: Mapping[str, Any]) -> AnswerForm | None:
    """Return what an answer must be, from the `FORM_KEYWORDS` of a call; None: it is text.

    Raises:
        ConfigurationError: A tool, the choice or the format cannot be used; names it.
    """
    tools, response_format = asked.get("tools"), asked.get("response_format")
    choice = asked.get("tool_choice")
    if not tools:
        if choice not in (None, "auto", "none", False):
            raise ConfigurationError("tool_choice", choice, "none without tools")
        return None if response_format is None else _json_form(response_format)
    if response_format is not None and response_format != {"type": "text"}:
        raise ConfigurationError(
            "response_format",
            response_format,
            "none beside tools",
            remedy="Bind the schema as a tool: with_structured_output(method='function_calling').",
        )
    parallel = asked.get("parallel_tool_calls")
    return ToolForm(
        tools=tuple(_tool_spec(tool, place) for place, tool in enumerate(tools)),
        choice=_choice(choice),
        parallel=parallel is not False,
    )


def _tool_spec(tool: Any, place: int) -> ToolSpec:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ConfigurationError(
            f"tools[{place}]", tool, "a function with a name", remedy="Use bind_tools."
        )
    return ToolSpec(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or {"type": "object", "properties": {}},
    )


def _choice(given: Any) -> str:
    if isinstance(given, dict):
        given = given.get("name") or (given.get("function") or {}).get("name")
        if not isinstance(given, str):
            raise ConfigurationError("tool_choice", given, "the name of a tool")
    if given is None or isinstance(given, bool | str):
        return _CHOICES.get(given, given)  # type: ignore[arg-type,return-value]  # a name is itself
    raise ConfigurationError("tool_choice", given, '"auto", "any", "none", or the name of a tool')


def _json_form(response_format: Any) -> JsonForm | None:
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonForm()
    described = response_format.get("json_schema") if kind == "json_schema" else None
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise ConfigurationError(
            "response_format",
            response_format,
            'of the type "text", "json_object", or "json_schema" with a schema',
            remedy="Use with_structured_output.",
        )
    return JsonForm(schema=schema)


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
