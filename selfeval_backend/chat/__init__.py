"""Messages and tools to token ids, and whole responses to text: the one door to tokenizers."""

from selfeval_backend.chat.messages import (
    Message,
    Role,
    ToolCall,
    ToolSpec,
    check_messages,
    new_call_id,
)
from selfeval_backend.chat.pairing import paired
from selfeval_backend.chat.plain import in_plain_turns, with_tools
from selfeval_backend.chat.template import Chat, ChatTemplate

__all__ = [
    "Chat",
    "ChatTemplate",
    "Message",
    "Role",
    "ToolCall",
    "ToolSpec",
    "check_messages",
    "in_plain_turns",
    "new_call_id",
    "paired",
    "with_tools",
]
