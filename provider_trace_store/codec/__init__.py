r"""Exact JSON: a stored document reads back equal; a document that would not is refused before any database work.

A value that JSON has is stored as plain JSON. A value that JSON lacks is stored as an object with one key that begins
with `$pts:`, its special form:

| Python                                        | stored                                                  |
|-----------------------------------------------|---------------------------------------------------------|
| `nan`, `inf`, `-inf`                          | `{"$pts:float": "NaN"}`, `"Infinity"`, `"-Infinity"`    |
| `bytes`                                       | `{"$pts:bytes": "<base64, RFC 4648 section 4>"}`        |
| `int` of more than 640 digits                 | `{"$pts:int": "<hexadecimal, with a minus sign>"}`      |
| `tuple`                                       | `{"$pts:tuple": [...]}`                                 |
| `str` with a high surrogate before a low one  | `{"$pts:str": ["...\ud83d", "\ude00..."]}`: its parts   |
| `dict` with such a `str` as a key             | `{"$pts:dict": [[key, value], ...]}`                    |
| `dict` whose one key looks like a form's      | that key with one more `$`: `{"$$pts:float": ...}`      |

A JSON reader takes the escapes of a high and a low surrogate for one character (RFC 8259, section 7), so such a `str`
is stored in parts. A lone surrogate is stored as its escape. An object whose key looks like a special form's, but whose
content is not one that `encode` writes, came from another system: `decode` returns it unchanged.

An instance of a subclass is stored as the type itself if the subclass compares as the type does, because it then reads
back equal: `StrEnum`, `IntEnum`, `OrderedDict`, `defaultdict`, named tuples. All other types are refused.
"""

from provider_trace_store.codec.documents import (
    Encoded,
    decode,
    encode,
    encode_utf8,
    from_json_form,
    json_form,
    same_document,
)
from provider_trace_store.codec.keys import text_keys
from provider_trace_store.codec.sizes import TooLargeError

__all__ = [
    "Encoded",
    "TooLargeError",
    "decode",
    "encode",
    "encode_utf8",
    "from_json_form",
    "json_form",
    "same_document",
    "text_keys",
]
