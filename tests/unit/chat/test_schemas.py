"""Schemas, made ready for grammars."""

from __future__ import annotations

from selfeval_backend.chat import ToolSpec
from selfeval_backend.chat.schemas import MOST_CALLS, call_schema, closed


def test_objects_have_the_properties_that_they_name_and_no_others() -> None:
    schema = {
        "type": "object",
        "properties": {
            "point": {"type": "object", "properties": {"x": {"type": "integer"}}},
            "points": {"type": "array", "items": {"properties": {}}},
            "either": {"anyOf": [{"properties": {"a": {}}}, {"type": "null"}]},
        },
        "$defs": {"D": {"properties": {"d": {}}}},
    }
    made = closed(schema)
    assert made["additionalProperties"] is False
    assert made["properties"]["point"]["additionalProperties"] is False
    assert made["properties"]["points"]["items"]["additionalProperties"] is False
    assert made["properties"]["either"]["anyOf"][0]["additionalProperties"] is False
    assert made["$defs"]["D"]["additionalProperties"] is False
    assert "additionalProperties" not in schema
    assert closed(made) == made


def test_what_says_something_of_others_is_left_alone() -> None:
    for schema in (
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": []}]},
        {"type": "object", "properties": {"a": {}}, "$ref": "#/$defs/B", "$defs": {"B": {}}},
    ):
        assert closed(schema) == schema


def test_constants_and_properties_that_look_like_schemas_are_left_alone() -> None:
    looks = {"properties": {"a": {}}}
    schema = {"properties": {"properties": {"const": looks}}, "default": looks, "enum": [looks]}
    made = closed(schema)
    assert made["properties"]["properties"] == {"const": looks}
    assert made["default"] == looks
    assert made["enum"] == [looks]


def test_a_call_has_name_and_arguments() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema = call_schema([ToolSpec(name="add", parameters=parameters)], parallel=False)
    assert schema == {
        "type": "object",
        "properties": {
            "name": {"const": "add"},
            "arguments": {**parameters, "additionalProperties": False},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_a_tool_without_arguments_gets_none() -> None:
    schema = call_schema([ToolSpec(name="now")], parallel=False)
    arguments = schema["properties"]["arguments"]
    assert arguments == {"type": "object", "properties": {}, "additionalProperties": False}


def test_several_calls_are_a_list_of_bounded_length() -> None:
    tools = [ToolSpec(name="add"), ToolSpec(name="now")]
    one, other, several = call_schema(tools, parallel=True)["anyOf"]
    assert several["items"] == {"anyOf": [one, other]}
    assert (several["minItems"], several["maxItems"]) == (1, MOST_CALLS)
    assert call_schema(tools, parallel=False) == {"anyOf": [one, other]}


def test_references_are_found_from_the_new_root() -> None:
    parameters = {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Tree"}, "self": {"$ref": "#"}},
        "$defs": {
            "Tree": {"properties": {"left": {"$ref": "#/$defs/Tree"}}, "type": "object"},
        },
    }
    tools = [ToolSpec(name="plain"), ToolSpec(name="grow", parameters=parameters)]
    schema = call_schema(tools, parallel=True)
    moved = schema["$defs"]["1"]
    assert schema["anyOf"][1]["properties"]["arguments"] == {"$ref": "#/$defs/1"}
    assert moved["properties"] == {
        "tree": {"$ref": "#/$defs/1/$defs/Tree"},
        "self": {"$ref": "#/$defs/1"},
    }
    assert moved["$defs"]["Tree"]["properties"]["left"] == {"$ref": "#/$defs/1/$defs/Tree"}
