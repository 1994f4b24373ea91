"""Answers of a given form: calls of tools, JSON of a schema, and text behind reasoning.

A form says what a sample's text must be (its grammar), and reads the text (`parse`). A run takes it
as its validator: a sample that does not parse never wins while one parses.
"""

from __future__ import annotations

from selfeval_backend.structured.asked import FORM_KEYWORDS, form_of, tool_specs
from selfeval_backend.structured.forms import (
    AnswerForm,
    InvalidToolCall,
    JsonForm,
    Parsed,
    ToolForm,
)
from selfeval_backend.structured.of_template import CallsOfModel, calls_of, load_tool_parser
from selfeval_backend.structured.parsers import TextToolParser, ToolParser
from selfeval_backend.structured.reasoning import (
    NO_REASONING,
    ReasoningForm,
    ReasoningParser,
    load_reasoning_parser,
    reasoning_of,
)

__all__ = [
    "FORM_KEYWORDS",
    "NO_REASONING",
    "AnswerForm",
    "CallsOfModel",
    "InvalidToolCall",
    "JsonForm",
    "Parsed",
    "ReasoningForm",
    "ReasoningParser",
    "TextToolParser",
    "ToolForm",
    "ToolParser",
    "calls_of",
    "form_of",
    "load_reasoning_parser",
    "load_tool_parser",
    "reasoning_of",
    "tool_specs",
]
