"""All figures, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import bulk, isolation, lite, memory, single, writer

if TYPE_CHECKING:
    from benchmarks.figures import Figure


def figures() -> list[Figure]:
    """Return all figures."""
    return [
        *bulk.figures(),
        *isolation.figures(),
        *single.figures(),
        *lite.figures(),
        *memory.figures(),
        *writer.figures(),
    ]
