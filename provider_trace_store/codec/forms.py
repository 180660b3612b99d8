"""Constants of the stored form, shared by the encoder and the decoder."""

from __future__ import annotations

import re
from typing import Final

# The largest number of nested containers in a stored text, those of special forms included: pydantic-core's parser
# stops at 200. On CPython 3.11 the standard library's parser counts the caller's stack frames, too.
MAX_DEPTH: Final = 200

# Python reads an integer of at most 640 digits under any setting of `sys.set_int_max_str_digits`.
MAX_DIGITS: Final = 640
INTEGER_LIMIT: Final = 10**MAX_DIGITS
# The digits of the longer integers of one document, which other systems wrote; reading them takes about 0.6 s.
MAX_LONG_DIGITS: Final = 1_000_000

MARK: Final = "$pts:"
LOOKS_LIKE_A_FORM: Final = re.compile(r"\$+pts:")
BETWEEN_SURROGATES: Final = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


def has_surrogate(text: str) -> bool:
    """Return whether a text has a surrogate, which UTF-8 cannot encode."""
    # Both checks are much faster than a search, and nearly all texts have no surrogate.
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def has_surrogate_pair(text: str) -> bool:
    """Return whether a text has a high surrogate before a low one, whose escapes JSON reads as one character."""
    return has_surrogate(text) and BETWEEN_SURROGATES.search(text) is not None
