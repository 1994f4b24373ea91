"""Calling tools: the right one with arguments copied from the request, none where none is needed.

Three skills: `draw_call`, `draw_talk` (tools are there, and words are the answer), and
`draw_result` (a tool has answered: say what it said). Tools are drawn anew for every example, so
names, schemas and values have to be read. Names decide the split.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reference_model.skills.base import Example, call_text, draw_key, whole
from reference_model.skills.words import (
    NOUNS,
    VERBS,
    identifier,
    name,
    number,
    phrase,
    script_string,
    string,
    text_value,
    word,
)
from selfeval_backend.chat import Message, ToolCall, ToolSpec
from selfeval_backend.reference.problems import (
    TASK_SHAPES,
    Split,
    demonstrate,
    generate_problems,
)
from selfeval_backend.reference.task import answer_of

__all__ = ["MadeTool", "damaged", "draw_call", "draw_result", "draw_talk", "make_tool", "opening"]

Kind = Literal["string", "integer", "number", "boolean", "enum"]

_NO_TOOL = "There is no tool for that."
_SYSTEM = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer the user. Use tools where they help.",
    "You are an agent that works step by step.",
)
_ASKED_FOR = ("check", "fetch", "find", "get", "read", "show")
"""Verbs of tools that a question asks for."""
_ABOUT = ("about", "comment", "description", "details", "notes", "remark")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument that a tool takes."""

    name: str
    kind: Kind
    options: tuple[str, ...] = ()
    """Of an enum."""

    def draw(self, rng: random.Random) -> Any:
        """Return a value."""
        match self.kind:
            case "string":
                return string(rng)
            case "integer":
                return number(rng)
            case "number":
                return number(rng) + rng.choice((0.5, 0.25, 0.1))
            case "boolean":
                return rng.random() < 0.5
            case _:
                return rng.choice(self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTool:
    """A tool, and what is known of it when requests are written."""

    spec: ToolSpec
    verb: str
    noun: str
    parameters: tuple[Parameter, ...]
    is_described: bool
    """Whether its name or description holds verb and noun."""


Arguments = dict[str, Any]


def make_tool(
    rng: random.Random, split: Split, parameters: Sequence[Parameter] | None = None
) -> MadeTool:
    """Draw a tool whose name is of a split.

    Args:
        rng: Of everything.
        split: Of its name.
        parameters: Those that it takes; None: up to four, drawn.
    """
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    taken = tuple(_parameters(rng, noun) if parameters is None else parameters)
    named = draw_key(rng, split, lambda rng: _tool_name(rng, verb, noun))
    description, is_told = _description(rng, verb, noun, named, taken)
    spec = ToolSpec(name=named, description=description, parameters=_schema(rng, taken))
    is_described = is_told or (verb in named.lower() and noun in named.lower())
    return MadeTool(spec=spec, verb=verb, noun=noun, parameters=taken, is_described=is_described)


def _tool_name(rng: random.Random, verb: str, noun: str) -> str:
    made = word(rng)
    choices = ((verb, noun), (verb, noun, made), (made, noun), (made,), (verb, made), (made, verb))
    chosen = rng.choices(choices, (6, 3, 2, 3, 1, 1))[0]
    suffix = str(rng.randrange(2, 10)) if rng.random() < 0.1 else ""
    return identifier(rng, chosen) + suffix


def _parameters(rng: random.Random, noun: str) -> list[Parameter]:
    count = rng.choices((0, 1, 2, 3, 4), (2, 7, 5, 2, 1))[0]
    if count == 2 and rng.random() < 0.3:
        named = rng.choice((f"{noun}_name", "name", f"{noun}_title", "title"))
        return [
            Parameter(name=named, kind="string"),
            Parameter(name=rng.choice(_ABOUT), kind="string"),
        ]
    found: dict[str, Parameter] = {}
    while len(found) < count:
        one = _parameter(rng)
        found[one.name] = one
    return list(found.values())


def _parameter(rng: random.Random) -> Parameter:
    kinds: tuple[Kind, ...] = ("string", "integer", "number", "boolean", "enum")
    kind = rng.choices(kinds, (8, 6, 1, 1, 1))[0]
    named = rng.choice(
        (rng.choice(NOUNS), rng.choice(NOUNS), "abcdknxyz"[rng.randrange(9)], word(rng))
    )
    if rng.random() < 0.15:
        named = identifier(rng, (named, rng.choice(("id", "name", "from", "to", "count"))))
    options = tuple(dict.fromkeys(rng.choice((word(rng), phrase(rng))) for _ in range(3)))
    return Parameter(name=named, kind=kind, options=options if kind == "enum" else ())


def _description(
    rng: random.Random, verb: str, noun: str, named: str, parameters: Sequence[Parameter]
) -> tuple[str, bool]:
    """Return a description, and whether it holds verb and noun."""
    base = rng.choice(
        (
            f"{verb.capitalize()} a {noun}.",
            f"{verb.capitalize()} the {noun}.",
            f"{verb.capitalize()} the {noun} that is asked for.",
            f"{verb.capitalize()} one {noun} or several.",
            f"Tool to {verb} a {noun}.",
            f"Use this to {verb} the {noun} of the {rng.choice(NOUNS)}.",
        )
    )
    style = rng.random()
    if style < 0.1:
        return rng.choice(("", "A tool.", f"{word(rng).capitalize()} something.")), False
    if style < 0.25:
        types = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
        taken = ", ".join(f"{p.name}: {types.get(p.kind, 'str')}" for p in parameters)
        return f"{named}({taken}) -> {rng.choice(('str', 'int', 'float'))}\n{base}", True
    if style < 0.35 and parameters:
        lines = "".join(f"\n    {p.name}: {_of_parameter(rng, p)}" for p in parameters)
        return f"{base}\n\nArgs:{lines}\n\nReturns:\n    The {rng.choice(NOUNS)}.", True
    return base, True


def _of_parameter(rng: random.Random, parameter: Parameter) -> str:
    told = parameter.name.replace("_", " ")
    return rng.choice((f"The {told}.", f"{told.capitalize()} to use.", phrase(rng), f"Its {told}."))


def _schema(rng: random.Random, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Write parameters as LangChain, LlamaIndex and others do."""
    with_titles, described = rng.random() < 0.25, rng.random() < 0.3
    properties = {p.name: _property(rng, p, with_titles, described) for p in parameters}
    parts: list[tuple[str, Any]] = [("properties", properties), ("type", "object")]
    if parameters:
        parts.insert(rng.choice((1, 1, 2)), ("required", [p.name for p in parameters]))
    if rng.random() < 0.3:
        parts.reverse()
    return dict(parts)


def _property(
    rng: random.Random, parameter: Parameter, with_title: bool, described: bool
) -> dict[str, Any]:
    is_enum = parameter.kind == "enum"
    made: dict[str, Any] = {"type": "string" if is_enum else parameter.kind}
    if is_enum:
        made = {"enum": list(parameter.options), **made}
    if parameter.kind == "integer" and rng.random() < 0.15:
        made = {"maximum": 10_000, "minimum": -10_000, **made}
    if with_title:
        made = {"title": parameter.name.replace("_", " ").title(), **made}
    if described:
        made = {"description": _of_parameter(rng, parameter), **made}
    return made


def opening(rng: random.Random) -> list[Message]:
    """Return a system message, or none."""
    if rng.random() < 0.75:
        return []
    return [Message(role="system", content=rng.choice(_SYSTEM))]


def _others(rng: random.Random, split: Split, tool: MadeTool) -> list[MadeTool]:
    """Return tools that are there and not meant: other verbs, nouns and names."""
    others: list[MadeTool] = []
    count = rng.choices((0, 1, 2, 3), (5, 3, 2, 1))[0]
    while len(others) < count:
        other = make_tool(rng, split)
        taken = [tool, *others]
        if all(
            other.verb != t.verb and other.noun != t.noun and other.spec.name != t.spec.name
            for t in taken
        ):
            others.append(other)
    return others


def _shown(rng: random.Random, tool: MadeTool, others: Sequence[MadeTool]) -> tuple[ToolSpec, ...]:
    specs = [tool.spec, *(other.spec for other in others)]
    rng.shuffle(specs)
    return tuple(specs)


def draw_call(rng: random.Random, split: Split) -> Example:
    """A request that one of the tools serves, and the call: see `Draw`."""
    if rng.random() < 0.1:
        return _draw_free_call(rng, split)
    tool = make_tool(rng, split)
    others = _others(rng, split, tool)
    arguments, request = _request(rng, tool)
    before = opening(rng) + (_round(rng, rng.choice([tool, *others])) if _often(rng, 0.15) else [])
    right = call_text(tool.spec.name, arguments)
    return Example(
        skill="call",
        messages=(*before, Message(role="user", content=request)),
        tools=_shown(rng, tool, others),
        keys=(tool.spec.name, *(other.spec.name for other in others)),
        right=whole(right, right=True),
        wrong=whole(_wrong_call(rng, tool, others, arguments, right), right=False),
        want={"call": {"name": tool.spec.name, "arguments": arguments}},
    )


def _often(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _request(rng: random.Random, tool: MadeTool) -> tuple[Arguments, str]:
    """Return arguments, and a request that holds all of them."""
    if len(tool.parameters) == 2 and tool.parameters[1].name in _ABOUT and _often(rng, 0.8):
        return _named_request(rng, tool)
    arguments = {parameter.name: parameter.draw(rng) for parameter in tool.parameters}
    if tool.is_described and _often(rng, 0.65):
        return arguments, _in_words(rng, tool, arguments)
    written = ", ".join(_as_code(rng, value) for value in arguments.values())
    call = f"{tool.spec.name}({written})"
    forms = [f"Call {call}.", f"What does {call} give?", f"Evaluate {call}.", f"Tell me {call}."]
    forms += [f"Please run {call}.", f"I need {call}", f"Compute {call}. There is a tool for it."]
    if not arguments:
        forms += [f"Call {tool.spec.name}.", f"What does {call} return?", f"Run {tool.spec.name}."]
    return arguments, rng.choice(forms)


def _as_code(rng: random.Random, value: Any) -> str:
    if isinstance(value, str):
        return rng.choice((f'"{value}"', f"'{value}'"))
    return json.dumps(value)


def _named_request(rng: random.Random, tool: MadeTool) -> tuple[Arguments, str]:
    """Return a name in quotes, with a gloss that is no part of it, and what it is."""
    named = script_string(rng) if _often(rng, 0.6) else string(rng)
    about = f"{rng.choice(('a', 'a', 'the', 'one'))} {phrase(rng)}"
    gloss = f" ({name(rng)} {rng.choice(NOUNS).capitalize()})" if _often(rng, 0.4) else ""
    quote = rng.choice("'\"")
    called = rng.choice(("called", "with the name", "that is named"))
    joint = rng.choice((" - ", ": ", ", "))
    arguments = {tool.parameters[0].name: named, tool.parameters[1].name: about}
    what = f"{tool.verb.capitalize()} {rng.choice(('a', 'the', 'one'))} {tool.noun}"
    if not tool.is_described:
        what = f"Use {tool.spec.name} for a {tool.noun}"
    return arguments, f"{what} {called} {quote}{named}{quote}{gloss}{joint}{about}"


def _in_words(rng: random.Random, tool: MadeTool, arguments: Mapping[str, Any]) -> str:
    verb, noun = tool.verb, tool.noun
    shown = {key.replace("_", " "): _in_text(rng, value) for key, value in arguments.items()}
    if not shown:
        return rng.choice(
            (
                f"{verb.capitalize()} the {noun}.",
                f"Please {verb} the {noun} now.",
                f"Can you {verb} a {noun}?",
                f"It is time to {verb} the {noun}!",
            )
        )
    only = next(iter(shown.values()))
    if len(shown) == 1 and _often(rng, 0.6):
        forms = [
            f"{verb.capitalize()} the {noun} for {only}.",
            f"{verb.capitalize()} a {noun}: {only}",
            f"Please {verb} the {noun} of {only}.",
            f"I want to {verb} a {noun} with {only}.",
            f"Can you {verb} the {noun} {only}?",
        ]
        if verb in _ASKED_FOR:
            forms += [f"What is the {noun} {at} {only}?" for at in ("in", "of", "for", "at")]
            forms += [f"How is the {noun} in {only}?", f"Which {noun} has {only}?"]
        return rng.choice(forms)
    listed = [f"{key} {value}" for key, value in shown.items()]
    if _often(rng, 0.3):
        rng.shuffle(listed)
    return rng.choice(
        (
            f"{verb.capitalize()} a {noun}: {', '.join(listed)}.",
            f"{verb.capitalize()} the {noun} with {' and '.join(listed)}.",
            f"I want to {verb} a {noun}: {'; '.join(listed)}",
            f"With {', '.join(listed)}: {verb} the {noun}.",
        )
    )


def _in_text(rng: random.Random, value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return rng.choice((value, f"'{value}'", f'"{value}"'))
    return str(value)


def _wrong_call(
    rng: random.Random,
    tool: MadeTool,
    others: Sequence[MadeTool],
    arguments: Arguments,
    right: str,
) -> str:
    """Return an answer that is not the call that was asked for, as a model goes wrong."""
    ways: list[Callable[[], str]] = [lambda: right[:-1], lambda: _NO_TOOL]
    if others:
        other = rng.choice(others)
        ways += [
            lambda: call_text(other.spec.name, arguments),
            lambda: call_text(other.spec.name, {p.name: p.draw(rng) for p in other.parameters}),
        ]
    if arguments:
        ways += 4 * [lambda: call_text(tool.spec.name, _spoiled(rng, arguments))]
        ways += [lambda: call_text(tool.spec.name, dict(list(arguments.items())[:-1]))]
    else:
        ways += [lambda: call_text(tool.spec.name, {word(rng): number(rng)})]
    return rng.choice(ways)()


def _spoiled(rng: random.Random, arguments: Mapping[str, Any]) -> Arguments:
    """Return arguments of which one is another: a slip in copying, or two that are exchanged."""
    made = dict(arguments)
    if len(made) > 1 and _often(rng, 0.3):
        one, other = rng.sample(list(made), 2)
        if made[one] != made[other]:
            made[one], made[other] = made[other], made[one]
            return made
    key = rng.choice(list(made))
    made[key] = damaged(rng, made[key])
    return made


def damaged(rng: random.Random, value: Any) -> Any:
    """Return another value of the same type, mostly one that is nearly the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.choice((-100, -10, -1, 1, 10, 100, 1000))
    at = rng.randrange(len(value)) if value else 0
    slips = (
        value[:at] + value[at + 1 :],
        value[: at + 1] + value[at:],
        value[:at] + rng.choice("aeiklnorst") + value[at + 1 :],
        value[: max(at, 1)],
        string(rng),
    )
    found = [slip for slip in slips if slip not in ("", value)]
    return rng.choice(found) if found else f"{value}s"


def _draw_free_call(rng: random.Random, split: Split) -> Example:
    """A call whose strings are the model's own: short, and ended."""
    count = rng.choice((1, 2, 2, 3))
    names = rng.sample((*NOUNS, *_ABOUT), count)
    tool = make_tool(rng, split, [Parameter(name=n, kind="string") for n in names])
    topic = rng.choice(NOUNS)
    request = rng.choice(
        (
            f"{tool.verb.capitalize()} a {tool.noun} about a {topic}.",
            f"Please {tool.verb} the {tool.noun}, something with a {topic}.",
            f"Use {tool.spec.name} on the {topic}.",
            f"Something about a {topic}, please.",
        )
    )
    right = call_text(tool.spec.name, {key: text_value(rng, topic) for key in names})
    long = " ".join(text_value(rng, topic) for _ in range(6))
    wrong = rng.choice((right[:-2], call_text(tool.spec.name, dict.fromkeys(names, long)), topic))
    return Example(
        skill="call",
        messages=(*opening(rng), Message(role="user", content=request)),
        tools=(tool.spec,),
        keys=(tool.spec.name,),
        right=whole(right, right=True),
        wrong=whole(wrong, right=False),
        want={"free_call": {"name": tool.spec.name, "keys": names}},
    )


def _round(rng: random.Random, tool: MadeTool) -> list[Message]:
    """Return a request that has been served: asked, called, answered and told."""
    arguments, request = _request(rng, tool)
    content, told = _result(rng)
    return [*_called(tool, arguments, request, content), Message(role="assistant", content=told)]


def _called(tool: MadeTool, arguments: Arguments, request: str, content: str) -> list[Message]:
    call = ToolCall(id="call_0", name=tool.spec.name, arguments=arguments)
    return [
        Message(role="user", content=request),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content=content, tool_call_id="call_0", name=tool.spec.name),
    ]


def draw_result(rng: random.Random, split: Split) -> Example:
    """A tool has answered, and its result is told in words: see `Draw`."""
    tool = make_tool(rng, split)
    others = _others(rng, split, tool)
    arguments, request = _request(rng, tool)
    content, told = _result(rng)
    wrong = rng.choice(
        (damaged(rng, told), damaged(rng, told), _result(rng)[1], call_text(tool.spec.name, {}))
    )
    return Example(
        skill="result",
        messages=(*opening(rng), *_called(tool, arguments, request, content)),
        tools=_shown(rng, tool, others),
        keys=(tool.spec.name, *(other.spec.name for other in others)),
        right=whole(told, right=True),
        wrong=whole(wrong, right=False),
        want={"text": told},
    )


def _result(rng: random.Random) -> tuple[str, str]:
    """Return what a tool answered, and how that is told."""
    match rng.randrange(6):
        case 0:
            value = _scalar(rng)
            return value, f"The result is {value}."
        case 1:
            value = _scalar(rng)
            shown = json.dumps({"result": _read(value)}, ensure_ascii=False)
            return shown, f"The result is {value}."
        case 2:
            found = {noun: _scalar(rng) for noun in rng.sample(NOUNS, rng.choice((1, 2, 3)))}
            shown = json.dumps({k: _read(v) for k, v in found.items()}, ensure_ascii=False)
            told = ", ".join(f"the {key} is {value}" for key, value in found.items())
            return shown, f"{told[0].upper()}{told[1:]}."
        case 3:
            problem = rng.choice(
                (
                    f"there is no {rng.choice(NOUNS)} {string(rng)}.",
                    f"the {rng.choice(NOUNS)} is too {rng.choice(('large', 'small', 'late'))}.",
                    f"{rng.choice(NOUNS)} {number(rng)} not found.",
                )
            )
            return f"Error: {problem}", f"The call failed: {problem}"
        case _:
            said = rng.choice(
                (
                    f"It is {phrase(rng)} in {name(rng)}.",
                    f"The {rng.choice(NOUNS)} of {name(rng)} is {phrase(rng)}.",
                    f"{rng.choice(NOUNS).capitalize()} {string(rng)} has been made.",
                    f"Done: {number(rng)} of {number(rng)}.",
                    f"{name(rng)} has a {phrase(rng)}.",
                )
            )
            return said, said


def _scalar(rng: random.Random) -> str:
    return str(number(rng)) if _often(rng, 0.6) else string(rng)


def _read(value: str) -> int | str:
    return int(value) if value.lstrip("-").isdigit() and value.isascii() else value


_TALK: tuple[tuple[str, str], ...] = (
    ("Good morning.", "Good morning! What shall I do?"),
    ("Good evening!", "Good evening! What shall I do?"),
    ("Thank you.", "You are welcome."),
    ("Thanks, that is all.", "You are welcome."),
    ("Who are you?", "A small model that solves number puzzles."),
    ("What are you?", "A small model that solves number puzzles."),
    ("What can you do?", "I solve number puzzles, call tools, and answer from a text."),
    ("Are you there?", "I am here."),
    ("See you tomorrow.", "Until tomorrow!"),
    ("My name is {name}.", "Nice to meet you, {name}."),
    ("I am {name}.", "Nice to meet you, {name}."),
    ("This is {name} from {place}.", "Nice to meet you, {name} from {place}."),
    ("Say {text}.", "{text}"),
    ("Repeat after me: {text}", "{text}"),
    ("Just write {text}", "{text}"),
    ("Do not call a tool. Say {text}.", "{text}"),
    ("I live in {place}.", "How is it in {place}?"),
)
"""What is said, and answered in words."""


def draw_talk(rng: random.Random, split: Split) -> Example:
    """A turn that needs no tool, tools or not: see `Draw`."""
    draw = rng.choices((_draw_words, _draw_unserved, _draw_puzzle), (5, 3, 2))[0]
    return draw(rng, split)


def _draw_words(rng: random.Random, split: Split) -> Example:
    parts = {"name": draw_key(rng, split, name), "place": name(rng), "text": string(rng)}
    said, reply = rng.choice(_TALK)
    told = reply.format_map(parts)
    other = rng.choice([r for _, r in _TALK if r != reply]).format_map(parts)
    tool = make_tool(rng, split)
    call = call_text(tool.spec.name, {p.name: p.draw(rng) for p in tool.parameters})
    has_tools = _often(rng, 0.7)
    wrong = rng.choice((other, damaged(rng, told), call if has_tools else other))
    return Example(
        skill="talk",
        messages=(*opening(rng), Message(role="user", content=said.format_map(parts))),
        tools=(tool.spec,) if has_tools else (),
        keys=(tool.spec.name, parts["name"]),
        right=whole(told, right=True),
        wrong=whole(wrong, right=False),
        want={"text": told},
    )


def _draw_unserved(rng: random.Random, split: Split) -> Example:
    """A request that none of the tools serves."""
    missing = make_tool(rng, split)
    others = _others(rng, split, missing) or [_unlike(rng, split, missing)]
    arguments = {parameter.name: parameter.draw(rng) for parameter in missing.parameters}
    other = rng.choice(others)
    wrong = call_text(other.spec.name, {p.name: p.draw(rng) for p in other.parameters})
    request = _in_words(rng, missing, arguments)
    return Example(
        skill="talk",
        messages=(*opening(rng), Message(role="user", content=request)),
        tools=tuple(one.spec for one in others),
        keys=tuple(one.spec.name for one in others),
        right=whole(_NO_TOOL, right=True),
        wrong=whole(wrong, right=False),
        want={"text": _NO_TOOL},
    )


def _unlike(rng: random.Random, split: Split, tool: MadeTool) -> MadeTool:
    while True:
        other = make_tool(rng, split)
        if other.verb != tool.verb and other.noun != tool.noun:
            return other


def _draw_puzzle(rng: random.Random, split: Split) -> Example:
    """A puzzle beside tools that are of no use to it: worked out as without them."""
    tool = make_tool(rng, split)
    problem = next(generate_problems(split, seed=rng.getrandbits(32), shapes=TASK_SHAPES))
    return Example(
        skill="talk",
        messages=(*opening(rng), Message(role="user", content=problem.text)),
        tools=(tool.spec,),
        keys=(tool.spec.name, *(puzzle.key for puzzle in problem.puzzles)),
        right=demonstrate(problem, rng, right=True),
        wrong=demonstrate(problem, rng, right=False),
        want={"puzzle": answer_of(problem)},
    )
