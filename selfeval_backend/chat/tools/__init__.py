"""Calls of tools: how models write them, and what reads them."""

from selfeval_backend.chat.tools.of_template import CallsOfModel, calls_of, load_tool_parser
from selfeval_backend.chat.tools.parsers import TextToolParser, ToolParser

__all__ = ["CallsOfModel", "TextToolParser", "ToolParser", "calls_of", "load_tool_parser"]
