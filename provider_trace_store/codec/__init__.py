r"""Exact JSON: a stored document reads back equal; a document that would not is refused before any database work.

A value that JSON has is stored as plain JSON. A value that JSON lacks is stored as an object with one key that begins
with `$pts:`, its special form:

| Python                                        | stored                                                  |
|-----------------------------------------------|---------------------------------------------------------|
| `nan`, `inf`, `-inf`                          | `{"$pts:float": "NaN"}`, `"Infinity"`, `"-Infinity"`    |
| `bytes`                                       | `{"$pts:bytes": "<base64, RFC 4648 section 4>"}`        |
| `int` of more than 640 digits                 | `{"$pts:int": "<hexadecimal, with a minus sign>"}`      |
| `tuple`                                       | `{"$pts:tuple": [...]}`                                 |
| `datetime`                                    | `{"$pts:datetime": "2026-01-02T03:04:05.000006+00:00"}` |
| `date`                                        | `{"$pts:date": "2026-01-02"}`                           |
| `time`                                        | `{"$pts:time": "03:04:05.000006"}`                      |
| `timedelta`                                   | `{"$pts:timedelta": "-86399.999999"}`: seconds          |
| `Decimal`                                     | `{"$pts:decimal": "1.10"}`, as `str` returns it         |
| `UUID`                                        | `{"$pts:uuid": "00000000-0000-0000-0000-000000000001"}` |
| `str` with a high surrogate before a low one  | `{"$pts:str": ["...\ud83d", "\ude00..."]}`: its parts   |
| `dict` with such a `str` as a key             | `{"$pts:dict": [[key, value], ...]}`                    |
| `dict` whose one key looks like a form's      | that key with one more `$`: `{"$$pts:float": ...}`      |

A JSON reader takes the escapes of a high and a low surrogate for one character (RFC 8259, section 7), so such a `str`
is stored in parts. A lone surrogate is stored as its escape. An object whose key looks like a special form's, but whose
content is not one that `encode` writes, came from another system: `decode` returns it unchanged.

Dates and times are stored as `isoformat` returns them, with the name of a `ZoneInfo` behind the offset
(`…+01:00[Europe/Berlin]`, RFC 9557) and `[_fold=1]` behind that if `fold` is 1. Any other time zone becomes a fixed
offset, `datetime.timezone` without a name; a value that would not compare equal then is refused. A zone that the reader
does not know, or whose rules have changed, becomes the fixed offset, too: the instant stays. Two documents that hold
`Decimal("1.0")` and `Decimal("1.00")`, or one instant in two zones, differ. A release that does not know one of
these forms returns it as a dict.

Sets, enumerations that are neither text nor numbers, paths, URLs and objects of a host's own classes are refused:
`model_dump(mode="json")` of Pydantic, or the host, turns them into one of the types above. Keys are text; `text_keys`
turns keys of type `int`, `float`, `bool` and None into text.

**The JSON form** of a trace (`model_dump_json`, `model_dump(mode="json")`) is the stored form for any JSON writer. Not
every one can write a surrogate: a `str` with one is `{"$pts:str": "...\ud83d"}`, its content escaped as in a JSON text,
and a `dict` with such a key is `{"$pts:dict": ...}`. `decode` reads both forms.

**Sizes.** A text of more than `limit` bytes is not made. Before, the size that it has at least is found, each container
once however often it occurs; keys of plain dicts count with a part of their length until then. The memory that encoding
takes is a small multiple of `limit`: about ten in the worst case, a text of control characters.

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
from provider_trace_store.codec.sizes import TooLargeError, check_least_size

__all__ = [
    "Encoded",
    "TooLargeError",
    "check_least_size",
    "decode",
    "encode",
    "encode_utf8",
    "from_json_form",
    "json_form",
    "same_document",
    "text_keys",
]
