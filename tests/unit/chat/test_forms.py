"""Forms of answers: what they force, and what they find."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from selfeval_backend.chat import JsonForm, Parsed, ToolCall, ToolForm, ToolSpec, load_tool_parser
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError

ADD = ToolSpec(
    name="add",
    description="Add two numbers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)
NOW = ToolSpec(name="now")
TOOLS = (ADD, NOW)
CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


def calls(parsed: Parsed) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in parsed.tool_calls]


def test_json_is_a_value() -> None:
    form = JsonForm(schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    assert json.loads(form.grammar.json_schema)["additionalProperties"] is False
    assert form.parse('{"n": 3}').value == {"n": 3}
    assert form.parse('{"n": 3}').valid
    cut = form.parse('{"n": ')
    assert not cut.valid
    assert "no JSON" in (cut.error or "")


def test_any_object_is_the_default() -> None:
    assert json.loads(JsonForm().grammar.json_schema) == {"type": "object"}


def test_a_schema_that_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        JsonForm(schema={"const": object()})


@pytest.mark.parametrize(
    "text",
    [CALL, f"  {CALL}\n", f"[{CALL}]", f"```json\n{CALL}\n```", f"```\n{CALL}```"],
)
def test_a_call_is_found_where_the_choice_is_the_models(text: str) -> None:
    form = ToolForm(tools=TOOLS)
    assert form.grammar is None
    parsed = form.parse(text)
    assert calls(parsed) == [("add", {"a": 1, "b": 2})]
    assert parsed.text == ""
    assert parsed.valid


def test_text_around_a_fenced_call_stays() -> None:
    parsed = ToolForm(tools=TOOLS).parse(f"I shall add.\n```json\n{CALL}\n```\nSee?")
    assert calls(parsed) == [("add", {"a": 1, "b": 2})]
    assert parsed.text == "I shall add.\nSee?"


def test_ids_are_such_as_every_family_takes() -> None:
    forms = [ToolForm(tools=TOOLS), ToolForm(tools=TOOLS, choice="required")]
    ids = [form.parse(text).tool_calls[0].id for form in forms for text in (CALL, f"[{CALL}]")]
    assert all(re.fullmatch(r"[a-zA-Z0-9]{9}", call_id) for call_id in ids)
    assert len(set(ids)) == len(ids)


def test_several_calls_have_ids_of_their_own() -> None:
    parsed = ToolForm(tools=TOOLS).parse(f'[{CALL}, {{"name": "now", "arguments": {{}}}}]')
    assert [call.name for call in parsed.tool_calls] == ["add", "now"]
    assert len({call.id for call in parsed.tool_calls}) == 2
    assert all(isinstance(call, ToolCall) and call.id for call in parsed.tool_calls)


@pytest.mark.parametrize(
    "text",
    [
        "Three.",
        "",
        "{not JSON at all",
        '{"answer": 3}',
        "[1, 2]",
        "[]",
        "```python\nx = 1\n```",
        "```",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    parsed = ToolForm(tools=TOOLS).parse(text)
    assert parsed == Parsed(text=text)
    assert parsed.valid


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        ('{"name": "add", "arguments": {"a": 1', None, "no JSON"),
        ('{"name": "subtract", "arguments": {}}', "subtract", "no tool 'subtract'"),
        ('{"name": "add", "arguments": [1, 2]}', "add", "no object"),
        ('{"name": "add", "arguments": {"a": 1}}', "add", "lack b"),
        ('{"name": 7, "arguments": {}}', None, "no tool 7"),
    ],
)
def test_what_looks_like_a_call_and_is_none_is_told(
    text: str, name: str | None, match: str
) -> None:
    parsed = ToolForm(tools=TOOLS).parse(text)
    (broken,) = parsed.invalid_tool_calls
    assert not parsed.valid
    assert (broken.name, parsed.tool_calls) == (name, ())
    assert match in broken.error
    assert broken.arguments


def test_a_forced_call_has_a_grammar() -> None:
    required = ToolForm(tools=TOOLS, choice="required")
    named = ToolForm(tools=TOOLS, choice="now")
    single = ToolForm(tools=TOOLS, choice="required", parallel=False)
    assert required.grammar is not None and '"array"' in required.grammar.json_schema
    assert single.grammar is not None and '"array"' not in single.grammar.json_schema
    assert named.grammar is not None and '"add"' not in named.grammar.json_schema
    assert required.shown == named.shown == TOOLS


@pytest.mark.parametrize("text", ["Three.", "{", "3", "[]", '{"name": "add"}'])
def test_anything_else_than_a_forced_call_is_invalid(text: str) -> None:
    parsed = ToolForm(tools=TOOLS, choice="required").parse(text)
    assert not parsed.valid
    assert parsed.invalid_tool_calls[0].arguments == text


def test_a_call_of_another_tool_than_the_named_one_is_invalid() -> None:
    form = ToolForm(tools=TOOLS, choice="now")
    assert not form.parse(CALL).valid
    assert calls(form.parse('{"name": "now", "arguments": {}}')) == [("now", {})]


def test_no_tool_is_shown_or_called_where_none_is_the_choice() -> None:
    form = ToolForm(tools=TOOLS, choice="none")
    assert form.shown == ()
    assert form.grammar is None
    assert form.parse(CALL) == Parsed(text=CALL)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"tools": ()}, "tools"),
        ({"tools": (ADD, ADD)}, "tools"),
        ({"tools": (ToolSpec(name=""),)}, "tools"),
        ({"tools": TOOLS, "choice": "subtract"}, "tool_choice"),
        ({"tools": (ToolSpec(name="f", parameters={"type": "array"}),)}, "tools.f.parameters"),
        ({"tools": (ToolSpec(name="f", parameters=[1]),)}, "tools.f.parameters"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_tools_that_cannot_be_called_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ToolForm(**arguments)
    assert caught.value.field == field


def test_a_parser_of_vllms_needs_a_tokenizer() -> None:
    assert load_tool_parser(None, ScriptedChat()).find(CALL, TOOLS).calls
    with pytest.raises(ConfigurationError, match="tool_parser"):
        load_tool_parser("hermes", ScriptedChat())
