"""What a metadata row takes: in the table, by column, and in each index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import raw

if TYPE_CHECKING:
    from benchmarks.bench import Bench

# A production table's average.
FULL_TRACE_BYTES: Final = 145_000
_SAMPLED: Final = 200_000


@dataclass(frozen=True)
class Space:
    """Bytes a row.

    Args:
        heap: of the table itself.
        columns: of each column's values, those that are NULL counted as nothing; a row's head and what aligns its
            values are the rest of `heap`.
        indexes: of each index, by name.
    """

    heap: float
    columns: dict[str, float]
    indexes: dict[str, float]

    @property
    def total(self) -> float:
        """The table and all its indexes."""
        return self.heap + sum(self.indexes.values())


def measure(bench: Bench, rows: int) -> Space:
    """Return what a metadata row takes.

    Args:
        bench: where.
        rows: that the table has.
    """
    table = raw.METADATA.table
    [[heap]] = bench.execute(f"SELECT pg_relation_size('{table}')")
    indexes = bench.execute(
        "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index"  # noqa: S608  (names of our own)
        f" WHERE indrelid = '{table}'::regclass ORDER BY 1"
    )
    sizes = ", ".join(f"avg(coalesce(pg_column_size({name}), 0))::float" for name in raw.METADATA.names)
    sample = f" TABLESAMPLE SYSTEM ({100 * _SAMPLED / rows})" if rows > _SAMPLED else ""
    [columns] = bench.execute(f"SELECT {sizes} FROM {table}{sample}")  # noqa: S608  (names of our own)
    return Space(
        heap / rows,
        dict(zip(raw.METADATA.names, columns, strict=True)),
        {name: size / rows for name, size in indexes},
    )
