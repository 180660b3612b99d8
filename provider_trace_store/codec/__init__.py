r"""Exact JSON: what is stored reads back equal, and what could not is refused before the database is touched.

What is JSON is stored as plain JSON. What JSON lacks becomes an object with one key that begins with `$pts:`:

| Python                                        | stored                                                  |
|-----------------------------------------------|---------------------------------------------------------|
| `nan`, `inf`, `-inf`                          | `{"$pts:float": "NaN"}`, `"Infinity"`, `"-Infinity"`    |
| `bytes`                                       | `{"$pts:bytes": "<base64, RFC 4648 section 4>"}`        |
| `int` of more than 640 digits                 | `{"$pts:int": "<hexadecimal, with a minus sign>"}`      |
| `tuple`                                       | `{"$pts:tuple": [...]}`                                 |
| `str` with a high surrogate before a low one  | `{"$pts:str": ["...\ud83d", "\ude00..."]}`: its parts   |
| `dict` with such a key                        | `{"$pts:dict": [[key, value], ...]}`                    |
| `dict` whose one key looks like these         | that key with one more `$`: `{"$$pts:float": ...}`      |

JSON's escapes would read two surrogates in a row as one astral character (RFC 8259, section 7); a lone one is
stored as its escape. An object that looks like one of these forms but is none, as another system may have
written it, is returned as it stands.

A subclass of a type that JSON knows is stored as that type, provided that it compares as that type does, so
that it reads back equal: `StrEnum`, `IntEnum`, `OrderedDict`, `defaultdict`, named tuples.
"""

from provider_trace_store.codec.documents import Encoded, decode, encode, encode_utf8, same_document

__all__ = ["Encoded", "decode", "encode", "encode_utf8", "same_document"]
