"""Calls of tools: how models write them, and what reads them."""

from selfeval_backend.chat.tools.of_template import CallsOfModel, calls_of, load_tool_parser
from selfeval_backend.chat.tools.parsers import TextToolParser, ToolParser
from selfeval_backend.chat.tools.raw_calls import RawCall, read_calls

__all__ = [
    "CallsOfModel",
    "RawCall",
    "TextToolParser",
    "ToolParser",
    "calls_of",
    "load_tool_parser",
    "read_calls",
]
