"""How the families of models write calls of tools, and how each way is read.

What says that calls begin (`MARKS`) and how a call is written (`_BODIES`) are two tables: any body
is read behind any mark, as models mix what they have seen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfeval_backend.chat.messages import ToolSpec
from selfeval_backend.chat.strict_json import end_of_brackets, read_json, read_written
from selfeval_backend.chat.tools.raw_calls import CUT_OFF, RawCall, Run, broken, read_run

__all__ = ["BODY_MARKS", "MARKS", "read_marked", "read_pythonic"]

MARKS: Mapping[str, str] = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen, GLM, SmolLM3, EXAONE 4, Granite 4
    "<tool_calls>": "</tool_calls>",  # Jamba, Hunyuan, MiniMax M1
    "<tools>": "</tools>",  # Qwen2.5-Coder, which takes the tag of its list of tools for it
    "<TOOLCALL>": "</TOOLCALL>",  # Nemotron
    "<function_call>": "</function_call>",  # Granite 20B
    "<functioncall>": "</functioncall>",  # Glaive
    "<function_calls>": "</function_calls>",  # OLMo 3
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",  # DeepSeek V3.2
    "<longcat_tool_call>": "</longcat_tool_call>",
    "<seed:tool_call>": "</seed:tool_call>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<|tool_call|>": "<|/tool_call|>",  # Granite 3, Phi-4-mini
    "<|tool_call_start|>": "<|tool_call_end|>",  # LFM2
    "<|tool_call>": "<tool_call|>",  # Gemma 4
    "<start_function_call>": "<end_function_call>",  # FunctionGemma
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",  # Kimi K2
    "<|action_start|>": "<|action_end|>",  # InternLM
    "<|START_ACTION|>": "<|END_ACTION|>",  # Command R7B, Command A
    "<|python_tag|>": "<|eom_id|>",  # Llama 3
    "<|python_start|>": "<|python_end|>",  # Llama 4
    "[TOOL_CALLS]": "</s>",  # Mistral
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",  # DeepSeek V3, R1
    "functools[": "",  # Firefunction, Phi-4-mini
}
"""What says that calls begin, and what, that they end; "": nothing does."""

BODY_MARKS = (
    "<function=",  # Llama 3.1, Qwen3-Coder
    "<invoke name=",  # MiniMax M2
    "<｜DSML｜invoke name=",
    "<｜tool▁call▁begin｜>",
    "<|tool_call_begin|>",
    "<|channel|>commentary to=",  # gpt-oss
    "<|channel|>analysis to=",
)
"""What calls begin with that need no mark in front."""

_IN_FRONT = ("<|plugin|>", "```python", "```json", "```")
"""What may stand between a mark and the call."""


def read_marked(text: str, start: int, closer: str, tools: Sequence[ToolSpec]) -> Run:
    """Return the calls behind a mark; where none can be read, a broken one.

    Args:
        text: The whole.
        start: Where the mark ends.
        closer: What says that the calls end; "": nothing does.
        tools: That may be called.
    """
    region = _Region(text=text, closer=closer, tools=tools)
    calls: list[RawCall] = []
    place = _behind_separators(text, start)
    while place < len(text) and not region.closes(place):
        run = _read_body(region, place)
        if run is None:
            break
        calls += run.calls
        place = _behind_separators(text, run.end)
    if not calls:
        end = region.end(place)
        calls.append(broken(text[place:end], region.problem(end)))
        place = end
    return Run(calls=tuple(calls), end=place + region.closes(place))


def _behind_separators(text: str, place: int) -> int:
    """Return where the next call begins, behind what may stand between two."""
    while place < len(text):
        word = next((word for word in _IN_FRONT if text.startswith(word, place)), "")
        if not word and not text[place].isspace() and text[place] not in ",;":
            break
        place += len(word) or 1
    return place


def _read_body(region: _Region, place: int) -> Run | None:
    for begins, read in _BODIES:
        match = begins.match(region.text, place)
        if match is not None and (run := read(region, match)).calls:
            return run
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """Where calls are read."""

    text: str
    closer: str
    tools: Sequence[ToolSpec]

    def closes(self, place: int) -> int:
        """Return the closer's length where it stands; else 0."""
        closes = self.closer and self.text.startswith(self.closer, place)
        return len(self.closer) if closes else 0

    def end(self, start: int) -> int:
        """Return where a call that cannot be read ends: at the closer, or the text's end."""
        found = self.text.find(self.closer, start) if self.closer else -1
        return len(self.text) if found < 0 else found

    def problem(self, end: int) -> str:
        """Return why a call that ends there cannot be read."""
        return CUT_OFF if end == len(self.text) else "it is no call of a tool"

    def broken(self, name: str, start: int) -> Run:
        """Return a call with a name, and without arguments that can be read."""
        end = self.end(start)
        raw = self.text[start:end].strip()
        return Run(calls=(RawCall(name=name, arguments=raw, error=self.problem(end)),), end=end)


_Reader = Callable[[_Region, "re.Match[str]"], Run]


def _json(region: _Region, match: re.Match[str]) -> Run:
    """Read calls in JSON; one that is broken off ends in front of the closer."""
    run = read_run(region.text, match.start(), region.tools, marked=True)
    end = region.end(match.start())
    if end < run.end and any(call.error for call in run.calls):
        return read_run(region.text[:end], match.start(), region.tools, marked=True)
    return run


def _named(region: _Region, match: re.Match[str]) -> Run:
    """Read a name, and an object of arguments behind it."""
    text, start = region.text, match.end()
    name = next(group for group in match.groups() if group is not None).strip("\"' ")
    name = name.removeprefix("functions.").partition(":")[0]
    if not text.startswith("{", start):
        return region.broken(name, start)
    written = read_written(text, start)
    if written.error is not None:
        end = min(written.end, region.end(start))
        call = RawCall(name=name, arguments=text[start:end], error=written.error)
        return Run(calls=(call,), end=end)
    behind = _CLOSES_NAMED.match(text, written.end)
    assert behind is not None, "it may be empty"
    return Run(calls=(RawCall(name=name, arguments=written.value),), end=behind.end())


_CLOSES_NAMED = re.compile(
    r"(?:\s*```)?(?:\s*(?:</function>|<｜tool▁call▁end｜>|<\|tool_call_end\|>|<\|call\|>))?"
)


def _in_tags(
    parameter: re.Pattern[str], closes: re.Pattern[str]
) -> Callable[[_Region, re.Match[str]], Run]:
    """Return the reader of a name, a tag for each argument, and an end."""

    def read(region: _Region, match: re.Match[str]) -> Run:
        name, place = match[1].strip("\"' \n"), match.end()
        written: list[tuple[str, str]] = []
        while (found := parameter.match(region.text, place)) is not None:
            written.append((found["key"].strip(), found["value"]))
            place = found.end()
        end = closes.match(region.text, place)
        if end is None:
            return region.broken(name, match.end())
        return Run(calls=(_typed_call(name, written, region.tools),), end=end.end())

    return read


def _typed_call(
    name: str, written: Sequence[tuple[str, str]], tools: Sequence[ToolSpec]
) -> RawCall:
    """Return a call whose arguments were written without types, with those of the tool's schema."""
    tool = next((tool for tool in tools if tool.name == name), None)
    schemas = {} if tool is None else tool.parameters.get("properties") or {}
    arguments = {key: _typed(value, schemas.get(key)) for key, value in written}
    twice = "an argument stands twice" if len(arguments) < len(written) else None
    return RawCall(name=name, arguments=arguments, error=twice)


def _typed(text: str, schema: object) -> Any:
    """Return a value as a schema has it: text where it may be that alone, else JSON if it is."""
    inside = text.removeprefix("\n").removesuffix("\n")
    types = _types(schema)
    if not types - {"string"}:
        return inside
    words = {"True": True, "False": False, "None": None}
    try:
        value = read_json(inside)
    except ValueError:
        return words.get(inside.strip(), inside)
    return inside if isinstance(value, str) or (value is None and "null" not in types) else value


def _types(schema: object) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    found = {named} if isinstance(named, str) else set(named or ())
    for word in ("anyOf", "oneOf"):
        for part in schema.get(word) or ():
            found |= _types(part)
    return found if found or not ({"$ref", "enum", "const", "allOf"} & set(schema)) else {"any"}


def _dialect(region: _Region, match: re.Match[str]) -> Run:
    """Read Gemma's own objects: keys without quotes, and tokens in place of quotes."""
    start = match.end() - 1
    end = end_of_brackets(_QUOTED.sub(lambda found: "0" * len(found[0]), region.text), start)
    if end is None or end > region.end(start) > start:
        return region.broken(match[1], start)
    raw = region.text[start:end]
    try:
        return Run(calls=(RawCall(name=match[1], arguments=_of_dialect(raw)),), end=end)
    except ValueError as error:
        return Run(calls=(RawCall(name=match[1], arguments=raw, error=str(error)),), end=end)


_QUOTED = re.compile(r'<\|"\|>(.*?)<\|"\|>|<escape>(.*?)<escape>', re.DOTALL)
_DIALECT = re.compile(rf"({_QUOTED.pattern})|([\w.-]+)(\s*:)?", re.DOTALL)


def _of_dialect(text: str) -> Any:
    def as_json(found: re.Match[str]) -> str:
        quoted = found[2] if found[2] is not None else found[3]
        if quoted is not None:
            return _quoted(quoted)
        word, colon = found[4], found[5] or ""
        return word if not colon and _is_json(word) else _quoted(word) + colon

    return read_json(_DIALECT.sub(as_json, text))


def _is_json(word: str) -> bool:
    try:
        read_json(word)
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def read_pythonic(text: str, start: int, *, end: int | None = None) -> Run:
    """Return calls written as Python writes them, in a list or one a line.

    Args:
        text: The whole.
        start: Where the first one, or the list, begins.
        end: Where they end at the latest; None: with the text.
    """
    limit = len(text) if end is None else end
    calls: list[RawCall] = []
    in_list = text.startswith("[", start)
    place = behind = start + in_list
    while (match := _CALL_BEGINS.match(text, place, limit)) is not None:
        closing = end_of_brackets(text[:limit], match.end() - 1)
        behind = place = limit if closing is None else closing
        calls.append(_of_python(match[1], text[match.end() - 1 : place], whole=closing is not None))
        if closing is None:
            break
    closes = re.compile(r"\s*,?\s*\]").match(text, behind, limit) if in_list else None
    if calls and in_list and closes is None and calls[-1].error is None:
        calls.append(broken("", f"the list of calls: {CUT_OFF}"))
    return Run(calls=tuple(calls), end=(closes.end() if closes else behind) if calls else start)


_CALL_BEGINS = re.compile(r"[\s,;]*(?:print\s*\()?([A-Za-z_][\w.]*)\s*\(")


def _of_python(name: str, arguments: str, *, whole: bool) -> RawCall:
    name = name.removesuffix(".call")
    if not whole:
        return RawCall(name=name, arguments=arguments, error=CUT_OFF)
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        assert isinstance(call, ast.Call), "a name with brackets behind it"
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("an argument has no name")
        values = {str(k.arg): _of_literal(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return RawCall(name=name, arguments=arguments, error=f"its arguments: {error}")
    return RawCall(name=name, arguments=values)


def _of_literal(node: ast.expr) -> Any:
    """Return a value that JSON has too; JSON's own words for truth and nothing are known."""
    words = {"true": True, "false": False, "null": None}
    match node:
        case ast.Name(id=word) if word in words:
            return words[word]
        case ast.Dict(keys=keys, values=values):
            names = [None if key is None else ast.literal_eval(key) for key in keys]
            if not all(isinstance(name, str) for name in names):
                raise ValueError("a key is no text")
            return {str(n): _of_literal(v) for n, v in zip(names, values, strict=True)}
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_of_literal(item) for item in items]
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise ValueError(f"{ast.unparse(node)[:40]} is no value of JSON")


def _pythonic(region: _Region, match: re.Match[str]) -> Run:
    end = region.end(match.start())
    return read_pythonic(region.text, match.start(), end=end)


_D = "(?:｜DSML｜)?"

_BODIES: tuple[tuple[re.Pattern[str], _Reader], ...] = (
    (re.compile(r"[\[{](?=\s*[\[{\]}\"']|\s*\Z)"), _json),
    # Mistral
    (re.compile(r"([\w.-]+)(?:\[CALL_ID\][\w-]+)?\[ARGS\]\s*"), _named),
    (re.compile(r"([\w.-]+)\s*(?=\{)"), _named),
    # DeepSeek V3.1 and, with a fence, R1 and V3
    (
        re.compile(
            r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([\w.-]+)(?:<｜tool▁sep｜>)?"
            r"\s*(?:```(?:json)?\s*)?"
        ),
        _named,
    ),
    # Kimi
    (
        re.compile(r"<\|tool_call_begin\|>\s*([\w.:-]+)\s*<\|tool_call_argument_begin\|>\s*"),
        _named,
    ),
    # gpt-oss
    (
        re.compile(
            r"<\|channel\|>\w+ to=([\w.-]+)\s*(?:<\|constrain\|>)?\s*(?:json)?\s*<\|message\|>\s*"
        ),
        _named,
    ),
    # Llama 3.1
    (re.compile(r"<function=([^>\n]+)>\s*(?=\{)"), _named),
    # Qwen3-Coder, Seed-OSS
    (
        re.compile(r"<function=([^>\n]+)>"),
        _in_tags(
            re.compile(r"\s*<parameter=(?P<key>[^>\n]+)>(?P<value>.*?)</parameter>", re.DOTALL),
            re.compile(r"\s*(?:</function>|(?=</tool_call>))"),
        ),
    ),
    # MiniMax M2, DeepSeek V3.2
    (
        re.compile(rf"<{_D}invoke name=([^>\n]+)>"),
        _in_tags(
            re.compile(
                rf"\s*<{_D}parameter name=\"(?P<key>[^\"\n]+)\"[^>\n]*>"
                rf"(?P<value>.*?)</{_D}parameter>",
                re.DOTALL,
            ),
            re.compile(rf"\s*</{_D}invoke>"),
        ),
    ),
    # GLM
    (
        re.compile(r"([\w.-]+)(?=\s*<(?:arg_key>|/tool_call>))"),
        _in_tags(
            re.compile(
                r"\s*<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
                re.DOTALL,
            ),
            re.compile(r"\s*(?=</tool_call>)"),
        ),
    ),
    # Gemma
    (re.compile(r"call:([\w.-]+)\s*\{"), _dialect),
    # Llama 4, LFM2, OLMo 3
    (re.compile(r"\[?\s*(?=[A-Za-z_][\w.]*\s*\()"), _pythonic),
)
"""How a call begins, and how it is read; of several that fit, the first one that finds a call."""
