"""Bodies of calls read as conversations: messages, their parts, and the differences between two calls.

It knows no database and no terminal, and raises for no document.
"""

from provider_trace_store.conversations.changes import (
    Change,
    Setting,
    answer_length,
    common_start,
    compare_messages,
    compare_settings,
    is_same_answer,
    tool_names,
)
from provider_trace_store.conversations.model import Exchange, Message, Part
from provider_trace_store.conversations.reading import read_exchange

__all__ = [
    "Change",
    "Exchange",
    "Message",
    "Part",
    "Setting",
    "answer_length",
    "common_start",
    "compare_messages",
    "compare_settings",
    "is_same_answer",
    "read_exchange",
    "tool_names",
]
