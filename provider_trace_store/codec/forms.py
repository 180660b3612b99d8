"""What the writer and the reader of the stored form agree on."""

from __future__ import annotations

import re
from typing import Final

# The levels of the stored form, a form of its own included: pydantic-core's parser stops at 200, whatever the
# caller's stack, where the standard library's would count the caller's frames on CPython 3.11.
MAX_DEPTH: Final = 200

# `sys.set_int_max_str_digits` goes down to 640: an integer of so many digits can be read under any setting.
MAX_DIGITS: Final = 640
INTEGER_LIMIT: Final = 10**MAX_DIGITS

MARK: Final = "$pts:"
LOOKS_LIKE_A_FORM: Final = re.compile(r"\$+pts:")
BETWEEN_SURROGATES: Final = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


def has_surrogate_pair(text: str) -> bool:
    """Say whether a text has two surrogates in a row that JSON's escapes would read as one character."""
    # Far quicker than the search; nearly all text has no surrogate at all.
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return BETWEEN_SURROGATES.search(text) is not None
    return False
