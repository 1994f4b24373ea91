"""How a model writes calls: what its tokenizer says, or its chat template shows.

A tokenizer may carry a `response_template` (transformers 5.13 and later). Else a conversation with
a call in it is rendered, and the form is known if what stands there can be read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from selfeval_backend.chat.messages import Message, ToolCall, ToolSpec
from selfeval_backend.chat.special_tokens import SpecialTokens
from selfeval_backend.chat.template import Chat, ChatTemplate
from selfeval_backend.chat.tools.call_forms import MARKS
from selfeval_backend.chat.tools.parsers import (
    OWN_NAMES,
    PLAIN,
    TextToolParser,
    ToolParser,
    VllmToolParser,
)
from selfeval_backend.chat.tools.raw_calls import (
    CUT_OFF,
    Found,
    RawCall,
    broken,
    read_calls,
    read_run,
)
from selfeval_backend.errors import ConfigurationError, MissingDependencyError

__all__ = ["CallsOfModel", "calls_of", "load_tool_parser", "response_template_of"]

_PROMPT, _RESULT = "Which mark is it?", "It is marked."
_VALUE = "the marked one"
_TOOL = ToolSpec(
    name="look_up_mark",
    description="Look up a mark.",
    parameters={
        "type": "object",
        "properties": {"mark": {"type": "string", "description": "The mark."}},
        "required": ["mark"],
    },
)
_CALL = ToolCall(id="markcall1", name=_TOOL.name, arguments={"mark": _VALUE})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsOfModel:
    """How a model writes calls where it is free to."""

    source: Literal["response template", "chat template", "plain"]
    """What says so; "plain": nothing does: they may be plain JSON, or in a form that is known."""
    written: str
    """A call as its chat template writes it, for people; "": it writes none."""
    parser: ToolParser | None
    """None: nothing here reads that."""


def calls_of(chat: Chat) -> CallsOfModel:
    """Find out how a model writes calls, and what reads them."""
    special = SpecialTokens.of(chat)
    written = _written_call(chat)
    own = TextToolParser(special=special)
    template = response_template_of(chat)
    if template is not None and "tool_calls" in template["fields"]:
        parser = _by_response_template(template, own)
        if parser is not None and (written is None or _reads(parser, written)):
            return CallsOfModel(
                source="response template", written=_shown(written or ""), parser=parser
            )
    if written is None:
        return CallsOfModel(source="plain", written="", parser=own)
    learned = TextToolParser(marks={**MARKS, **_marks_around(written)}, special=special)
    reader = next((parser for parser in (own, learned) if _reads(parser, written)), None)
    return CallsOfModel(source="chat template", written=_shown(written), parser=reader)


def load_tool_parser(name: str | None, chat: Chat) -> ToolParser:
    """Return a parser.

    Args:
        name: None: what the model's tokenizer or chat template says, and plain JSON; "json": plain
            JSON alone; or one of vLLM's ("hermes", "llama3_json", ...). Without vLLM the common
            ones of them are read all the same.
        chat: The model's.

    Raises:
        ConfigurationError: There is none of that name, it does not go with the model, or the model
            writes calls in a way that nothing here reads.
        MissingDependencyError: vLLM is not installed.
    """
    if name is None:
        found = calls_of(chat)
        if found.parser is None:
            raise ConfigurationError(
                "tool_parser",
                None,
                f"the name of what reads calls as this model's chat template writes them "
                f"({found.written})",
                remedy="Name one of vLLM's parsers (see its --tool-call-parser), or "
                f'"{PLAIN}" if the model answers with plain JSON. Calls that are forced '
                '(tool_choice="required", or a tool\'s name) need none.',
            )
        return found.parser
    if name == PLAIN:
        return TextToolParser(marks={})
    if not isinstance(chat, ChatTemplate):
        raise ConfigurationError("tool_parser", name, "none for a model without a tokenizer")
    try:
        return VllmToolParser(name, chat.tokenizer)
    except MissingDependencyError:
        if name not in OWN_NAMES:
            raise
        return TextToolParser(special=SpecialTokens.of(chat))


def response_template_of(chat: Chat) -> Mapping[str, Any] | None:
    """Return what a tokenizer says of its model's responses; None: nothing, or nothing usable."""
    if not isinstance(chat, ChatTemplate):
        return None
    template = getattr(chat.tokenizer, "response_template", None)
    usable = isinstance(template, Mapping) and isinstance(template.get("fields"), Mapping)
    return template if usable else None


def _prompt_text(chat: Chat) -> str:
    """Return a prompt with its special tokens: what a response follows."""
    ids = chat.prompt_ids([Message(role="user", content=_PROMPT)])
    return chat.decode(ids, keep_special_tokens=True)


def _written_call(chat: Chat) -> str | None:
    """Return an assistant's turn with a call in it, as the chat template writes it; None: none."""
    asked = Message(role="user", content=_PROMPT)
    called = Message(role="assistant", content="", tool_calls=(_CALL,))
    result = Message(role="tool", content=_RESULT, tool_call_id=_CALL.id, name=_CALL.name)
    again = Message(role="user", content=_RESULT)
    for last in (result, again):  # a template may know calls, and no results
        try:
            ids = chat.prompt_ids([asked, called, last], (_TOOL,))
        except ConfigurationError:
            continue
        turn = chat.decode(ids, keep_special_tokens=True).rpartition(_PROMPT)[2]
        turn = turn.partition(_RESULT)[0]
        if _VALUE in turn:
            return _turn_alone(turn, chat)
    return None


def _turn_alone(turn: str, chat: Chat) -> str:
    """Return a turn without what opens it, and what ends it."""
    header = _prompt_text(chat).rpartition(_PROMPT)[2]
    turn = turn[_num_alike(header, turn) :]
    ends = (chat.decode([end], keep_special_tokens=True) for end in chat.end_token_ids)
    places = [turn.find(end, turn.find(_VALUE)) for end in ends if end]
    return turn[: min((place for place in places if place >= 0), default=len(turn))].strip()


def _num_alike(one: str, other: str) -> int:
    """Return how many letters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = next((place for place, (a, b) in pairs if a != b), None)
    return min(len(one), len(other)) if differ is None else differ


def _shown(written: str) -> str:
    line = " ".join(written.split())
    return line if len(line) <= 120 else f"{line[:117]}..."


def _reads(parser: ToolParser, written: str) -> bool:
    return any(
        _is_probe(call) for text in _spelled(written) for call in parser.find(text, (_TOOL,)).calls
    )


def _spelled(written: str) -> tuple[str, ...]:
    """Return a call as it is written, and as it was meant.

    Some templates write arguments as Python shows them, or texts without quotes; models do not.
    gpt-oss's writes to whom a message goes in front of its channel; the model writes it behind.
    """
    shown = written.replace(str(dict(_CALL.arguments)), json.dumps(_CALL.arguments))
    quoted = re.sub(rf"""(?<!["'])\b{_VALUE}\b(?!["'])""", json.dumps(_VALUE), written)
    channelled = re.sub(r"to=([\w.-]+)(<\|channel\|>\w+)", r"\2 to=\1", written)
    return written, shown, quoted, channelled


def _is_probe(call: RawCall) -> bool:
    return (call.name, call.arguments, call.error) == (_CALL.name, _CALL.arguments, None)


def _marks_around(written: str) -> dict[str, str]:
    """Return what stands around a call in JSON, where that is no mark that is known."""
    for bracket in re.finditer(r"[\[{]", written):
        run = read_run(written, bracket.start(), (_TOOL,), marked=True)
        if run.calls and _is_probe(run.calls[0]):
            before, after = written[: bracket.start()].split(), written[run.end :].split()
            return {before[-1]: after[0] if after else ""} if before else {}
    named = re.search(rf"(\S+?)\s*{_TOOL.name}(?=\s*(?:\[ARGS\]\s*)?\{{)", written)
    return {named[1]: ""} if named else {}


def _by_response_template(
    template: Mapping[str, Any], own: TextToolParser
) -> ResponseTemplateParser | None:
    try:
        return ResponseTemplateParser(template, own)
    except (ImportError, ValueError):
        return None  # what the chat template shows is read instead


class ResponseTemplateParser:
    """Reads calls as a tokenizer's `response_template` says, by transformers.

    Args:
        template: The tokenizer's, with a field for calls.
        own: Reads what is left: models do not always keep to their template.

    Raises:
        ValueError: The template cannot be used.
        ImportError: This transformers knows none.
    """

    keeps_special_tokens = True

    def __init__(self, template: Mapping[str, Any], own: TextToolParser) -> None:
        from transformers.utils.chat_parsing.response_templates import load_response_template

        fields = {"tool_calls": template["fields"]["tool_calls"], "content": {"content": "text"}}
        self._spec = load_response_template({**template, "defaults": {}, "fields": fields})
        self._field = self._spec.fields["tool_calls"]
        self._own = own

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text."""
        kept: list[str] = []
        calls: list[RawCall] = []
        place = 0
        while (opening := self._field.open_re.search(text, place)) is not None:
            end = self._end(text, opening.end())
            kept.append(text[place : opening.start()])
            calls += self._read(text[opening.start() : end or len(text)], end is not None, tools)
            place = max(end or len(text), opening.start() + 1)
        if not calls:
            return self._own.find(text, tools)
        rest = self._own.find("\n".join(filter(None, map(str.strip, (*kept, text[place:])))), tools)
        return Found(text=rest.text, calls=(*calls, *rest.calls))

    def settled(self, text: str) -> str:
        """Return what stands in front of anything that may become a call."""
        opening = self._field.open_re.search(text, partial=True)
        return self._own.settled(text if opening is None else text[: opening.start()])

    def _end(self, text: str, start: int) -> int | None:
        """Return where a call ends; None: it is cut off."""
        if self._field.close_re is None:
            return len(text)
        closing = self._field.close_re.search(text, start)
        return None if closing is None else closing.end()

    def _read(self, text: str, is_whole: bool, tools: Sequence[ToolSpec]) -> tuple[RawCall, ...]:
        from transformers.utils.chat_parsing import parse_response

        # Only JSON tells by itself whether it is whole.
        if not is_whole and self._field.content != "json":
            return (broken(text),)
        shown: list[Any] = [{"type": "function", "function": asdict(tool)} for tool in tools]
        try:
            found = parse_response(text, self._spec, prefix="", tools=shown)["tool_calls"]
            json.dumps(found, allow_nan=False)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return (broken(text, CUT_OFF if not is_whole else f"it cannot be read: {error}"),)
        return read_calls(found) or (broken(text, "it is no call of a tool"),)
