"""The number of examples that Hypothesis draws: a test names the usual one, `HYPOTHESIS_PROFILE` scales all."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "HYPOTHESIS_PROFILE"
# `few` for runs that vary a version, `usual` for `make test`, `many` for `make fuzz`.
SCALES: Final = {"few": 0.2, "usual": 1, "many": 10}


def profile() -> str:
    """Return the profile's name.

    Raises:
        ValueError: the variable names no profile.
    """
    name = os.environ.get(VARIABLE, "usual")
    if name not in SCALES:
        raise ValueError(f"{VARIABLE} is {name!r}: use one of {', '.join(SCALES)}")
    return name


def examples(usual: int) -> int:
    """Return the number of examples in this run.

    Args:
        usual: the number in `make test`.
    """
    return max(1, round(usual * SCALES[profile()]))
