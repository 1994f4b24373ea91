"""From a response's text to calls of tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from selfeval_backend.chat.messages import ToolSpec
from selfeval_backend.chat.special_tokens import SpecialTokens
from selfeval_backend.chat.tools.call_forms import BODY_MARKS, MARKS, read_marked, read_pythonic
from selfeval_backend.chat.tools.raw_calls import Found, RawCall, Run, broken, read_run
from selfeval_backend.chat.vllm_parsers import made_for
from selfeval_backend.errors import MissingDependencyError
from selfeval_backend.forks import Lock

__all__ = ["OWN_NAMES", "PLAIN", "TextToolParser", "ToolParser", "VllmToolParser"]

PLAIN = "json"
"""The name of the parser that reads plain JSON alone."""

OWN_NAMES = frozenset(
    {
        *("hermes", "qwen3_coder", "qwen3_xml", "qwen3_json", "glm45", "glm47", "seed_oss"),
        *("llama3_json", "llama4_json", "pythonic", "llama4_pythonic", "olmo3", "lfm2"),
        *("mistral", "phi4_mini_json", "granite", "granite4", "jamba", "hunyuan_a13b", "xlam"),
        *("deepseek_v3", "deepseek_v31", "deepseek_v32", "kimi_k2", "minimax_m2", "internlm"),
        *("cohere_command3", "openai", "gemma4", "functiongemma", "longcat"),
    }
)
"""Of vLLM's parsers, those whose forms are read here too."""

_MOST_MISSES = 200
"""Of lines that begin as JSON and are no call; behind so many, plain JSON is looked for no more, as
each may be read to the text's end."""

_LEAST_OF_A_MARK = 5
"""Letters of a mark that is cut off, from which on it is taken for one."""


class ToolParser(Protocol):
    """Finds calls in a response that was free to have none."""

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether the text has to hold special tokens."""
        ...

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text; what merely looks like one has an error."""
        ...

    def settled(self, text: str) -> str:
        """Return what of a growing text will stand in `Found.text`, at its beginning."""
        ...


class TextToolParser:
    """Finds calls in all forms that are known, wherever they stand in a text.

    In plain JSON (``{"name": ..., "arguments": {...}}``, a list of them, several in a row) they
    begin a line or fill a fenced block; in a model's own words they stand behind its marks. JSON
    that is no call is text. What was to be one and cannot be read is a broken one, never text.

    Args:
        marks: What says that calls begin, and what, that they end; none: plain JSON alone is read.
        special: The tokenizer's special tokens.
    """

    def __init__(
        self, *, marks: Mapping[str, str] = MARKS, special: SpecialTokens | None = None
    ) -> None:
        self._marks = dict(marks)
        self._words = (*self._marks, *(BODY_MARKS if marks else ()))
        self._special = special or SpecialTokens()
        self.keeps_special_tokens = self._special.holds_any(self._words)
        # The longest first: one may begin as another does.
        words = "|".join(map(re.escape, sorted(self._words, key=len, reverse=True))) or r"(?!)"
        self._opening = re.compile(rf"(?P<mark>{words})|{_FENCE}|{_LINE}", re.MULTILINE)

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text."""
        kept: list[str] = []
        calls: list[RawCall] = []
        last = place = misses = 0
        while (opening := self._opening.search(text, place)) is not None:
            missed = opening["line"] is not None and misses >= _MOST_MISSES
            run = Run(end=place) if missed else self._read(text, opening, tools)
            misses += opening["mark"] is None and not run.calls
            place = max(run.end, opening.end(), place + 1)
            if run.calls:
                kept.append(text[last : opening.start()])
                calls += run.calls
                last = place
        rest = text[last:]
        if cut := self._cut_mark(rest):
            rest = rest[: len(rest) - len(cut)]
            calls.append(broken(cut))
        if not calls:
            return Found(text=self._special.left_out(text))
        parts = [self._special.left_out(part).strip() for part in (*kept, rest)]
        return Found(text="\n".join(filter(None, parts)), calls=tuple(calls))

    def settled(self, text: str) -> str:
        """Return what stands in front of anything that may become a call."""
        opening = self._opening.search(text) or _LABEL_AT_END.search(text)
        end = len(text) if opening is None else opening.start()
        for word in (*self._words, *_FENCES):
            end = min(end, len(text) - len(_begun(word, text)))
        return self._special.left_out(text[:end])

    def _read(self, text: str, opening: re.Match[str], tools: Sequence[ToolSpec]) -> Run:
        word = opening["mark"]
        if word is None:
            is_fenced = opening["fence"] is not None
            return _fenced(text, opening, tools) if is_fenced else _line(text, opening, tools)
        if word in BODY_MARKS:
            return read_marked(text, opening.start(), "", tools)
        start = opening.end() - word.endswith("[")
        if word == "<tools>" and text[start:].lstrip()[:1] not in ("{", "[", ""):
            return Run(end=start)
        return read_marked(text, start, self._marks[word], tools)

    def _cut_mark(self, text: str) -> str:
        begun = [_begun(mark, text) for mark in self._words]
        return max((b for b in begun if len(b) >= _LEAST_OF_A_MARK), key=len, default="")


_LABEL_AT_END = re.compile(r"\bAction:\s*`{0,2}\Z")
_FENCES = ("```", "Action:")
_FENCE = r"(?P<fence>(?:\bAction:\s*)?```(?P<language>\w*)[^\S\n]*\n?)"
_LINE = r"(?P<line>^[^\S\n]*(?=\{|\[\s*(?:\{|\Z|[A-Za-z_][\w.]*\s*(?:\(|\Z))))"


def _begun(word: str, text: str) -> str:
    """Return the beginning of a word that a text ends with; the whole word is none."""
    return next((word[:n] for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n])), "")


def _fenced(text: str, opening: re.Match[str], tools: Sequence[ToolSpec]) -> Run:
    """Read calls that fill a fenced block, which may be cut off; else pass over the block."""
    start, closing = opening.end(), text.find("```", opening.end())
    read = _FENCED.get(opening["language"])
    if read is not None:
        run = read(text if closing < 0 else text[:closing], start, tools)
        if closing >= 0 and any(call.error for call in run.calls):
            whole = read(text, start, tools)  # the fence may stand in a string
            run = run if any(call.error for call in whole.calls) else whole
        behind = len(text) - len(text[run.end :].lstrip())
        if run.calls and (behind == len(text) or text.startswith("```", behind)):
            return Run(calls=run.calls, end=min(behind + 3, len(text)))
    return Run(end=closing + 3 if closing >= 0 else len(text))


def _fenced_json(text: str, start: int, tools: Sequence[ToolSpec]) -> Run:
    return read_run(text, start, tools)


def _fenced_python(text: str, start: int, tools: Sequence[ToolSpec]) -> Run:
    run = read_pythonic(text, start)
    closes_print = text[run.end :].startswith(")")
    return Run(calls=run.calls, end=run.end + closes_print) if run.calls else run


_FENCED = {
    **dict.fromkeys(("", "json", "tool_call", "tool_calls"), _fenced_json),
    "tool_code": _fenced_python,  # Gemma 3
}


def _line(text: str, opening: re.Match[str], tools: Sequence[ToolSpec]) -> Run:
    """Read calls that begin a line: JSON, or a list in Python's words of a tool that there is."""
    start = opening.end()
    run = read_run(text, start, tools)
    if run.calls or not text.startswith("[", start):
        return run
    names = {tool.name for tool in tools}
    if text[start + 1 :].strip() in names:
        return Run(calls=(broken(text[start:]),), end=len(text))
    run = read_pythonic(text, start)
    return run if run.calls and run.calls[0].name in names else Run(end=start)


class VllmToolParser:
    """One of vLLM's own parsers, for a model that calls tools in its own words.

    Args:
        name: As in vLLM's ``--tool-call-parser``: "hermes", "llama3_json", ...
        tokenizer: The model's.

    Raises:
        ConfigurationError: There is none of that name, or it does not go with the tokenizer.
        MissingDependencyError: vLLM is not installed.
    """

    keeps_special_tokens = True

    def __init__(self, name: str, tokenizer: Any) -> None:
        try:
            from vllm.tool_parsers import ToolParserManager
        except ImportError as error:
            raise MissingDependencyError("vllm", extra="vllm") from error
        self._parser = made_for(
            tokenizer,
            field="tool_parser",
            name=name,
            find=ToolParserManager.get_tool_parser,
            registered=ToolParserManager.list_registered,
        )
        self._lock = Lock()

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Found:
        """Return the calls in a text."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest.model_validate(
            {
                "messages": [],
                "model": "",
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": tool.name,
                            "description": tool.description,
                            "parameters": dict(tool.parameters),
                        },
                    }
                    for tool in tools
                ],
            }
        )
        with self._lock:  # it keeps a state
            found = self._parser.extract_tool_calls(text, request)
        calls = tuple(_of_vllm(call.function) for call in found.tool_calls)
        return Found(text=found.content or "", calls=calls)

    def settled(self, text: str) -> str:
        """Return nothing: where calls begin is the parser's own, and it reads a whole."""
        return ""


def _of_vllm(function: Any) -> RawCall:
    try:
        return RawCall(name=function.name, arguments=json.loads(function.arguments))
    except ValueError as error:
        problem = f"its arguments are no JSON: {error}"
        return RawCall(name=function.name, arguments=function.arguments, error=problem)
