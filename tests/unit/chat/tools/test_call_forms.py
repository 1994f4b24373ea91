"""Calls as the families of models write them: whole, in a row, cut off, and broken."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.chat import Parsed, ToolForm, ToolSpec

WEATHER = ToolSpec(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
NOW = ToolSpec(name="now")
FORM = ToolForm(tools=(WEATHER, NOW))
ARGUMENTS = {"city": "Oslo {north}", "days": 3}
JSON = json.dumps(ARGUMENTS)
CALL = f'{{"name": "get_weather", "arguments": {JSON}}}'
OTHER = '{"name": "now", "arguments": {}}'
PYTHON = 'get_weather(city="Oslo {north}", days=3)'
PARAMETERS = (
    "<parameter=city>\nOslo {north}\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>"
)
DEEPSEEK = "<｜tool▁call▁begin｜>"
INVOKE = (
    '<invoke name="get_weather">\n<parameter name="city">Oslo {north}</parameter>\n'
    '<parameter name="days">3</parameter>\n</invoke>'
)

ONE_CALL = {
    "plain": CALL,
    "plain behind text": f"I shall look.\n{CALL}",
    "a list": f"[{CALL}]",
    "parameters": f'{{"name": "get_weather", "parameters": {JSON}}}',
    "as in OpenAI's API": json.dumps(
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": JSON},
        }
    ),
    "arguments in a string": json.dumps({"name": "get_weather", "arguments": JSON}),
    "under tool_calls": f'{{"tool_calls": [{CALL}]}}',
    "a fence": f"```json\n{CALL}\n```",
    "a fence on one line": f"```json {CALL}```",
    "Hermes, Qwen": f"<tool_call>\n{CALL}\n</tool_call>",
    "Hermes without an end": f"<tool_call>\n{CALL}\n",
    "Qwen2.5-Coder": f"<tools>\n{CALL}\n</tools>",
    "a list behind a mark": f"<tool_call>[{CALL}]</tool_call>",
    "Llama 3.1": f'<|python_tag|>{{"name": "get_weather", "parameters": {JSON}}}',
    "Llama 3.1, a tag": f"<function=get_weather>{JSON}</function>",
    "Llama 4": f"[{PYTHON}]",
    "Llama 4, with marks": f"<|python_start|>[{PYTHON}]<|python_end|>",
    "LFM2": f"<|tool_call_start|>[{PYTHON}]<|tool_call_end|>",
    "MiniCPM3": f"<|tool_call_start|>\n```python\n{PYTHON}\n```\n<|tool_call_end|>",
    "OLMo 3": f"<function_calls>\n{PYTHON}\n</function_calls>",
    "Gemma 3": f"```tool_code\nprint({PYTHON})\n```",
    "Gemma 4": '<|tool_call>call:get_weather{city:<|"|>Oslo {north}<|"|>,days:3}<tool_call|>',
    "FunctionGemma": (
        "<start_function_call>call:get_weather{city:<escape>Oslo {north}<escape>,days:3}"
        "<end_function_call>"
    ),
    "Mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {JSON}, "id": "abcdefghi"}}]',
    "Mistral, newer": f"[TOOL_CALLS]get_weather[ARGS]{JSON}",
    "Mistral, with an id": f"[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{JSON}",
    "Mistral, in between": f"[TOOL_CALLS]get_weather{JSON}",
    "Firefunction": f" functools[{CALL}]",
    "Phi-4-mini": f"<|tool_call|>[{CALL}]<|/tool_call|>",
    "Granite": f"<|tool_call|>[{CALL}]",
    "Granite 20B": f"<function_call> {CALL}",
    "Nemotron": f"<TOOLCALL>[{CALL}]</TOOLCALL>",
    "Jamba": f"<tool_calls>[{CALL}]</tool_calls>",
    "InternLM": f'<|action_start|><|plugin|>{{"name": "get_weather", "parameters": {JSON}}}'
    "<|action_end|>",
    "Command R": (f'Action: ```json\n[{{"tool_name": "get_weather", "parameters": {JSON}}}]\n```'),
    "Command R7B": (
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": '
        f"{JSON}}}]<|END_ACTION|>"
    ),
    "Qwen3-Coder": f"<tool_call>\n<function=get_weather>\n{PARAMETERS}\n</tool_call>",
    "Qwen3-Coder without a mark": f"<function=get_weather>\n{PARAMETERS}",
    "Seed-OSS": f"<seed:tool_call>\n<function=get_weather>\n{PARAMETERS}\n</seed:tool_call>",
    "GLM": (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo {north}</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
    ),
    "MiniMax M2": f"<minimax:tool_call>\n{INVOKE}\n</minimax:tool_call>",
    "DeepSeek V3.2": "<｜DSML｜function_calls>\n"
    + INVOKE.replace("<", "<｜DSML｜").replace("<｜DSML｜/", "</｜DSML｜")
    + "\n</｜DSML｜function_calls>",
    "DeepSeek V3": (
        f"<｜tool▁calls▁begin｜>{DEEPSEEK}function<｜tool▁sep｜>get_weather\n```json\n{JSON}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "DeepSeek V3.1": (
        f"<｜tool▁calls▁begin｜>{DEEPSEEK}get_weather<｜tool▁sep｜>{JSON}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "Kimi K2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{JSON}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "gpt-oss": (
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>"
    ),
}


def calls(parsed: Parsed) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in parsed.tool_calls]


@pytest.mark.parametrize("family", ONE_CALL)
def test_every_familys_call_is_found(family: str) -> None:
    parsed = FORM.parse(ONE_CALL[family])
    assert calls(parsed) == [("get_weather", ARGUMENTS)], parsed
    assert parsed.valid and not parsed.invalid_tool_calls
    assert parsed.text in ("", "I shall look.")


@pytest.mark.parametrize("family", ONE_CALL)
def test_text_in_front_of_a_call_stays_and_streams(family: str) -> None:
    text = f"Let me see.\n{ONE_CALL[family]}"
    parsed = FORM.parse(text)
    assert calls(parsed) == [("get_weather", ARGUMENTS)]
    assert parsed.text.startswith("Let me see.")
    for length in range(len(text) + 1):
        assert parsed.text.startswith(FORM.settled(text[:length]).strip())


@pytest.mark.parametrize("family", ONE_CALL)
def test_a_call_that_is_cut_off_is_never_text(family: str) -> None:
    text = ONE_CALL[family]
    # From where the name stands, up to the last letter of its arguments.
    for length in range(text.index("get_weather") + len("get_weather"), text.rindex("3")):
        parsed = FORM.parse(text[:length])
        assert not parsed.valid, text[:length]
        assert not parsed.tool_calls
        assert parsed.invalid_tool_calls[0].error
        assert parsed.text in ("", "I shall look.")


@pytest.mark.parametrize(
    "text",
    [
        f"{CALL}\n{OTHER}",
        f"{CALL}{OTHER}",
        f"{CALL}; {OTHER}",
        f"{CALL},\n{OTHER}",
        f"[{CALL}, {OTHER}]",
        f"```json\n{CALL}\n{OTHER}\n```",
        f"```json\n{CALL}\n```\n```json\n{OTHER}\n```",
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{OTHER}\n</tool_call>",
        f"<tool_call>\n{CALL}\n{OTHER}\n</tool_call>",
        f"<tool_call>{CALL}\n<tool_call>{OTHER}",
        f"<tool_call>\n{CALL}\n</tool_call>\n{OTHER}",
        f"[TOOL_CALLS]get_weather[ARGS]{JSON}[TOOL_CALLS]now[ARGS]{{}}",
        f"[{PYTHON}, now()]",
        f"<function=get_weather>{JSON}</function><function=now>{{}}</function>",
        f"<tool_call><function=get_weather>{PARAMETERS}</tool_call>\n"
        "<tool_call><function=now></function></tool_call>",
    ],
)
def test_several_calls_are_found_in_order(text: str) -> None:
    parsed = FORM.parse(text)
    assert calls(parsed) == [("get_weather", ARGUMENTS), ("now", {})]
    assert parsed.valid
    assert parsed.text == ""


@pytest.mark.parametrize(
    ("whole", "cut"),
    [
        (f"{CALL}\n", '{"name": "get_weather", "argum'),
        (f"{CALL}\n", '{"name": "get_weather", "arguments": {"city": "a \\"b'),
        (f"{CALL}\n", '{"na'),
        (f"[{CALL}, ", '{"name": "get_we'),
        (f"```json\n{CALL}\n", '{"name": "get_weather", "arguments": {"city": "Os'),
        (f"```json\n{CALL}\n", '{"name": "get_weather", "arguments": {"city": "Os\n```'),
        (f"<tool_call>\n{CALL}\n</tool_call>\n", '<tool_call>\n{"name": "get_'),
        (f"<tool_call>\n{CALL}\n</tool_call>\n", "<tool_call>\n"),
        (f"<tool_call>\n{CALL}\n</tool_call>\n", "<tool_call>"),
        (f"<tool_call>\n{CALL}\n</tool_call>\n", "<tool_c"),
        (f"[TOOL_CALLS]get_weather[ARGS]{JSON}", "[TOOL_CALLS]get_wea"),
        (f"[TOOL_CALLS]get_weather[ARGS]{JSON}", '[TOOL_CALLS]now[ARGS]{"a": '),
        (f"[{PYTHON}, ", "now(a="),
        (f"<function=get_weather>{JSON}</function>", "<function=now>"),
        (f"<function=get_weather>{PARAMETERS}", "<function=now>\n<parameter=a>\n1"),
    ],
)
def test_whole_calls_are_kept_in_front_of_one_that_is_cut_off(whole: str, cut: str) -> None:
    parsed = FORM.parse(whole + cut)
    assert calls(parsed) == [("get_weather", ARGUMENTS)]
    assert len(parsed.invalid_tool_calls) == 1
    assert not parsed.valid
    assert parsed.text == ""


@pytest.mark.parametrize("text", [f"[{CALL}", f"[{CALL},", f"[{PYTHON}", f"<tool_call>[{CALL}"])
def test_a_list_without_an_end_is_cut_off(text: str) -> None:
    parsed = FORM.parse(text)
    assert calls(parsed) == [("get_weather", ARGUMENTS)]
    assert not parsed.valid
    assert "list" in parsed.invalid_tool_calls[0].error


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CALL.replace("3", "NaN"), "NaN"),
        (CALL.replace("3", "1e999"), "1e999"),
        (CALL.replace('"days"', '"city"'), "twice"),
        (CALL.replace("3}}", "3,}}"), "no JSON"),
        (CALL.replace('"', "'"), "no JSON"),
        (CALL.replace("Oslo", "\\ud83d"), "half of a character"),
        (json.dumps({"name": "get_weather", "arguments": '{"city": '}), "arguments are no JSON"),
        ('{"name": "get_weather", "arguments": ' + "[" * 5000, "no JSON"),
        ("[get_weather(Oslo)]", "no name"),
        ("[get_weather(city=open('x'))]", "no value of JSON"),
        ("<tool_call>look up Oslo</tool_call>", "no call"),
        ("<tool_call></tool_call>", "no call"),
        ("<tool_call>{name: get_weather}</tool_call>", "no call"),
        (f"<function=get_weather>\n<parameter=city>a</parameter>\n{PARAMETERS}", "twice"),
    ],
)
def test_what_was_to_be_a_call_is_invalid_and_no_text(text: str, match: str) -> None:
    parsed = FORM.parse(text)
    assert not parsed.valid and not parsed.tool_calls
    assert match in (parsed.error or "")
    assert parsed.text == ""


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "arguments": {"city": 1,}}\n' + OTHER,
        '{"name": "get_weather", "arguments": {"city": 1}\n' + OTHER,
        f"<tool_call>{{'name': 1}}</tool_call><tool_call>{OTHER}</tool_call>",
        f"<tool_call>{OTHER}</tool_call><tool_call>none</tool_call>",
    ],
)
def test_a_broken_call_among_others_does_not_take_them_away(text: str) -> None:
    parsed = FORM.parse(text)
    assert calls(parsed) == [("now", {})]
    assert len(parsed.invalid_tool_calls) == 1
    assert not parsed.valid


@pytest.mark.parametrize(
    "text",
    [
        "See [the docs](https://a.b) and [1].",
        "[x] done\n[ ] to do",
        "```c\n{ return 1; }\n```",
        "```python\nprint(now())\n```",
        "{\n  let x = 1;\n}",
        '{"name": "Bob", "age": 3}',
        '{"name": "get_weather", "description": "A tool.", "parameters": {"type": "object"}}',
        "[f(x) for x in y]",
        "Action: wait",
        "a < b",
        "<tools> are listed",
        '```json\n{"a": 1}\n```',
        "[TOOLS] are good",
    ],
)
def test_what_is_no_call_is_left_as_it_is(text: str) -> None:
    assert FORM.parse(text) == Parsed(text=text)


def test_a_fence_within_an_argument_ends_no_block() -> None:
    call = json.dumps({"name": "get_weather", "arguments": {"city": "```js\n1\n```"}})
    assert calls(FORM.parse(f"```json\n{call}\n```")) == [
        ("get_weather", {"city": "```js\n1\n```"})
    ]


@pytest.mark.parametrize(
    "text", ["{\n" * 4000, "```json\n{\n```\n" * 800, '{"name": "x"\n' * 800, "[" * 9000]
)
def test_a_long_text_is_read_at_once(text: str) -> None:
    began = time.process_time()
    assert FORM.parse(text).tool_calls == ()
    assert time.process_time() - began < 5.0


def test_a_call_of_an_unknown_tool_is_told_by_its_name() -> None:
    parsed = FORM.parse('<tool_call>{"name": "fly", "arguments": {}}</tool_call>')
    assert [call.name for call in parsed.invalid_tool_calls] == ["fly"]


def test_values_without_types_get_those_of_the_schema() -> None:
    tool = ToolSpec(
        name="f",
        parameters={
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "truth": {"type": "boolean"},
                "items": {"anyOf": [{"type": "array"}, {"type": "null"}]},
            },
        },
    )
    written = "<function=f>" + "".join(
        f"<parameter={name}>\n{value}\n</parameter>"
        for name, value in {"text": "12", "truth": "True", "items": "[1]", "other": "7"}.items()
    )
    (call,) = ToolForm(tools=(tool,)).parse(f"{written}</function>").tool_calls
    assert call.arguments == {"text": "12", "truth": True, "items": [1], "other": "7"}


PIECES = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "<tool",
            "[TOOL_CALLS]",
            "now[ARGS]",
            "{}",
            "[",
            "]",
            "\n",
        ),
        *(CALL, OTHER, CALL[:30], '{"a": 1}', "```json\n", "```", "Action: ", "text ", "now(", "é"),
        *("<function=now>", "</function>", "<parameter=a>", "functools[", " ", "{", '"'),
    ]
)


@given(parts=st.lists(PIECES, max_size=10))
def test_what_was_shown_is_never_taken_back(parts: list[str]) -> None:
    text = "".join(parts).strip()
    whole = FORM.parse(text).text.strip()
    for length in range(len(text) + 1):
        assert whole.startswith(FORM.settled(text[:length]).strip()), text[:length]


@given(text=st.text(alphabet="[]{}\"'(),:;\\ \n`<|>naTOL_CARGS=/", max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(FORM.parse(text), Parsed)
    FORM.settled(text)
