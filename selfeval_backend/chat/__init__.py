"""A model's own words: its template and tokens, its tools and its reasoning, and its text.

Messages and tools become token ids by the model's template (`Chat`), and what it wrote becomes text
again, up to a stop string. A form (`AnswerForm`) says what an answer must be, its grammar if it has
one, and reads the text: a sample that does not parse never wins while one parses.
"""

from selfeval_backend.chat.forms import AnswerForm, InvalidToolCall, JsonForm, Parsed, ToolForm
from selfeval_backend.chat.messages import (
    CheckedMessages,
    Message,
    Role,
    ToolCall,
    ToolSpec,
    check_messages,
    new_call_id,
)
from selfeval_backend.chat.openai import FORM_KEYWORDS, form_of, tool_specs
from selfeval_backend.chat.pairing import paired
from selfeval_backend.chat.plain import in_plain_turns, with_tools
from selfeval_backend.chat.reasoning import (
    NO_REASONING,
    ReasoningForm,
    ReasoningParser,
    load_reasoning_parser,
    reasoning_of,
)
from selfeval_backend.chat.stop_strings import StopStrings
from selfeval_backend.chat.strict_json import read_json
from selfeval_backend.chat.template import Chat, ChatTemplate
from selfeval_backend.chat.text_flow import TextFlow
from selfeval_backend.chat.tools import (
    CallsOfModel,
    RawCall,
    TextToolParser,
    ToolParser,
    calls_of,
    load_tool_parser,
    read_calls,
)

__all__ = [
    "FORM_KEYWORDS",
    "NO_REASONING",
    "AnswerForm",
    "CallsOfModel",
    "Chat",
    "ChatTemplate",
    "CheckedMessages",
    "InvalidToolCall",
    "JsonForm",
    "Message",
    "Parsed",
    "RawCall",
    "ReasoningForm",
    "ReasoningParser",
    "Role",
    "StopStrings",
    "TextFlow",
    "TextToolParser",
    "ToolCall",
    "ToolForm",
    "ToolParser",
    "ToolSpec",
    "calls_of",
    "check_messages",
    "form_of",
    "in_plain_turns",
    "load_reasoning_parser",
    "load_tool_parser",
    "new_call_id",
    "paired",
    "read_calls",
    "read_json",
    "reasoning_of",
    "tool_specs",
    "with_tools",
]
