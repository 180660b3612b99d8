"""A call to a provider as a conversation: messages, their parts, and everything beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# text: prose; thinking: the model's reasoning; call: a call of a tool; result: what a tool returned; media: a
# placeholder of an image, a sound or a file; data: JSON of a form that this package does not know; error: a failure.
PartKind = Literal["text", "thinking", "call", "result", "media", "data", "error"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message.

    Args:
        kind: what the piece is.
        text: its text; for a call the arguments, for media a description with size and type.
        name: the tool of a call or of a result, or the provider's name of the form; empty if there is none.
        call_id: the id that connects a call with its result; empty if there is none.
        key: a hash of the bytes of media, so that two images of one size differ.
    """

    kind: PartKind
    text: str
    name: str = ""
    call_id: str = ""
    key: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation.

    Args:
        role: the role as the provider spells it: `system`, `user`, `assistant`, `tool`, `model`, …
        parts: the pieces, in order.
    """

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response, read as a conversation.

    Args:
        form: the wire format of the request, such as `chat` or `anthropic`; `json` if none was recognized.
        model: the model's name; empty if neither body has it.
        request: the messages of the request, system prompts first.
        response: the messages of the response.
        settings: the other fields of the request.
        details: the other fields of the response: usage, reason of the end, ids.
    """

    form: str
    model: str
    request: tuple[Message, ...]
    response: tuple[Message, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_conversation(self) -> bool:
        """Whether both bodies were recognized: no message is only JSON of an unknown form."""
        return self.form != "json" and all(
            any(part.kind != "data" for part in message.parts) or not message.parts
            for message in (*self.request, *self.response)
        )
