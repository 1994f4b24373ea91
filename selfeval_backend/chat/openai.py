"""Forms of answers, from what callers say in the words of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfeval_backend.chat.forms import AnswerForm, JsonForm, ToolForm
from selfeval_backend.chat.messages import ToolSpec
from selfeval_backend.errors import ConfigurationError

__all__ = ["FORM_KEYWORDS", "form_of", "tool_specs"]

FORM_KEYWORDS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Keywords of a call that say what the answer must be."""

_CHOICES = {"any": "required", True: "required", False: "none", None: "auto"}


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
            remedy="Let the schema be the arguments of a tool.",
        )
    parallel = asked.get("parallel_tool_calls")
    return ToolForm(
        tools=tool_specs(tools),
        choice=_choice(choice),
        parallel=parallel is not False,
    )


def tool_specs(tools: Sequence[Any]) -> tuple[ToolSpec, ...]:
    """Return tools, from what OpenAI's API takes for them.

    Raises:
        ConfigurationError: One of them is none.
    """
    return tuple(_tool_spec(tool, place) for place, tool in enumerate(tools))


def _tool_spec(tool: Any, place: int) -> ToolSpec:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ConfigurationError(
            f"tools[{place}]",
            tool,
            'a function with a name, {"type": "function", "function": {...}}',
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
        )
    return JsonForm(schema=schema)
