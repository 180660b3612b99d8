"""Exports as Parquet: a column for each column of the tables, documents as `large_string` with their stored text."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from provider_trace_store.errors import MaintenanceError
from provider_trace_store.maintenance.transfer.lines import stored_in
from provider_trace_store.maintenance.transfer.sinks import Unreadable, complete
from provider_trace_store.maintenance.transfer.stored import StoredTrace, stored_of
from provider_trace_store.tables.kinds import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provider_trace_store.maintenance.transfer.stored import Lines, Position

# The most rows, and the bytes of documents, of a row group: a reader holds a whole one in memory.
_GROUP_ROWS: Final = 100
_GROUP_BYTES: Final = 4_000_000


class ParquetSink(Unreadable):
    """Writes a Parquet file; a killed export begins again.

    Args:
        path: of the complete file.
        file: the unfinished one, from `part_file`.

    Raises:
        MaintenanceError: pyarrow is not installed.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__()
        self.position: Position | None = None
        self.rows = 0
        self._path = path
        self._file = file
        self._group: list[StoredTrace] = []
        self._size = 0
        arrow, parquet = _libraries()
        file.truncate(0)
        # The text of a document is in one place only, so a dictionary would take memory and save nothing.
        dictionary = [field.name for field in _schema() if field.type == arrow.string()]
        self._writer = parquet.ParquetWriter(
            file, _schema(), compression="zstd", use_dictionary=dictionary, write_page_checksum=True
        )

    def write(self, lines: Lines) -> None:
        """Write a batch of rows."""
        for trace_id in lines.unreadable:
            self.leave_out(trace_id)
        # Not `splitlines`: a document can have a carriage return.
        for number, line in enumerate(lines.content.split(b"\n")[:-1], start=1):
            stored = stored_in(line + b"\n", number)
            self._group.append(stored)
            self._size += stored.size
            if len(self._group) == _GROUP_ROWS or self._size >= _GROUP_BYTES:
                self._write_group()
        self.position = lines.position

    def keep(self) -> None:
        """Do nothing: a Parquet file without its end is not readable."""

    def finish(self) -> None:
        """Complete the file, and give it its name."""
        self._write_group()
        self._writer.close()
        complete(self._path, self._file)

    def close(self) -> None:
        """End the writer, which would write into the closed file otherwise."""
        self._writer.close()

    def _write_group(self) -> None:
        if not self._group:
            return
        arrow, _ = _libraries()
        columns: dict[str, list[Any]] = {field.name: [] for field in _schema()}
        for stored in self._group:
            given = dict(zip(stored.kind.layout.fields, stored.values, strict=True))
            given["stored_as"] = stored.stored_as
            for name, column in columns.items():
                column.append(given.get(name))
        # Bytes become text without being decoded: Arrow's text is UTF-8.
        arrays = [
            arrow.array(columns[field.name], arrow.large_binary()).cast(field.type)
            if field.type == arrow.large_string()
            else arrow.array(columns[field.name], field.type)
            for field in _schema()
        ]
        self._writer.write_table(arrow.Table.from_arrays(arrays, schema=_schema()), row_group_size=_GROUP_ROWS)
        self.rows += len(self._group)
        self._group, self._size = [], 0


def rows_in(path: Path) -> int:
    """Return the number of rows of a Parquet file.

    Raises:
        MaintenanceError: the file is not an export, or pyarrow is not installed.
    """
    arrow, parquet = _libraries()
    try:
        with parquet.ParquetFile(path) as file:
            if file.schema_arrow.names == _schema().names:
                return int(file.metadata.num_rows)
    except (arrow.ArrowException, OSError):
        pass  # raised below
    raise MaintenanceError("the Parquet file is damaged, or is not an export")


def stored_rows_in(path: Path) -> Iterator[StoredTrace]:
    """Yield the rows of a Parquet file; arguments and errors as `rows_in`. Checksums of its pages are verified."""
    arrow, parquet = _libraries()
    is_damaged = False
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                binary = [
                    table.column(field.name).cast(arrow.large_binary())
                    if field.type == arrow.large_string()
                    else table.column(field.name)
                    for field in _schema()
                ]
                columns = [column.to_pylist() for column in binary]
                for row in zip(*columns, strict=True):
                    yield stored_of(dict(zip(_schema().names, row, strict=True)))
    except (arrow.ArrowException, OSError, KeyError, TypeError):
        is_damaged = True
    if is_damaged:
        raise MaintenanceError("the Parquet file is damaged, or is not an export")


@cache
def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415  (an optional package, and slow to import)
        from pyarrow import parquet  # noqa: PLC0415  (as above)
    except ImportError:
        pass
    else:
        return pa, parquet
    raise MaintenanceError("Parquet needs pyarrow: run `pip install 'provider_trace_store[export]'`")


@cache
def _schema() -> Any:  # noqa: ANN401  (pyarrow has no types)
    arrow, _ = _libraries()
    fields = [arrow.field("stored_as", arrow.string(), nullable=False)]
    for name in FULL.layout.fields:
        kind = arrow.string()
        if name in FULL.documents:
            kind = arrow.large_string()
        elif name in ("created_at", "updated_at"):
            kind = arrow.timestamp("us", tz="UTC")
        elif name == "is_deleted":
            kind = arrow.bool_()
        fields.append(arrow.field(name, kind))
    return arrow.schema(fields)
