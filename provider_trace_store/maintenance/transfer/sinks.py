"""Where an export writes: a file of lines that a killed export goes on with, or a Parquet file that is begun anew.

Until it is complete, the file has the suffix `.part`. Beside a file of lines, `.state` says how far it is durable.
"""

from __future__ import annotations

import os
import sys
import zlib
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import orjson

from provider_trace_store.errors import InvalidArgumentError, MaintenanceError
from provider_trace_store.maintenance.transfer.lines import summary_line
from provider_trace_store.maintenance.transfer.stored import Position
from provider_trace_store.packs.zstd import stream_compressor

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provider_trace_store.maintenance.transfer.stored import Lines

# 32 MB: the calls of runs that alternate repeat text from far behind.
WINDOW_LOG: Final = 25
LEVEL: Final = 3
# The bytes of lines after which the file is made durable; a new zstd frame begins, which knows no earlier text.
_DURABLE_AFTER: Final = 128_000_000
_SAMPLE: Final = 100  # ids that a report names


class Sink(Protocol):
    """Takes the rows of an export."""

    position: Position | None
    rows: int
    unreadable: int
    unreadable_ids: list[str]

    def write(self, lines: Lines) -> None:
        """Write a batch of rows."""

    def keep(self) -> None:
        """Make durable what was written, so that the next export goes on after it, if the format allows that."""

    def finish(self) -> None:
        """Complete the file, and give it its name."""

    def close(self) -> None:
        """Release what writes the file, after `finish` or an error."""


class Unreadable:
    """Counts the rows that are not in the file, and names the first of them."""

    def __init__(self) -> None:
        self.unreadable = 0
        self.unreadable_ids: list[str] = []

    def leave_out(self, trace_id: str) -> None:
        """Count a row that is not readable."""
        self.unreadable += 1
        if len(self.unreadable_ids) < _SAMPLE:
            self.unreadable_ids.append(trace_id)


@contextmanager
def part_file(path: Path) -> Iterator[BinaryIO]:
    """Open the unfinished file of an export for this process alone.

    Args:
        path: of the complete file, which must not exist.

    Raises:
        InvalidArgumentError: the complete file exists.
        MaintenanceError: another export writes the file, or it cannot be opened.
    """
    if path.exists():
        raise InvalidArgumentError("file", "exists already: choose another name, or delete it")
    try:
        descriptor = os.open(part_of(path), os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        reason = error.strerror
    else:
        with os.fdopen(descriptor, "r+b") as file:
            if sys.platform != "win32":
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise MaintenanceError("another export writes this file: wait for its end") from None
            yield file
        return
    raise MaintenanceError(f"the file cannot be written: {reason}")


def part_of(path: Path) -> Path:
    """Return the path of the unfinished file."""
    return path.with_name(path.name + ".part")


def state_of(path: Path) -> Path:
    """Return the path of the file that says how far the unfinished file is durable."""
    return path.with_name(path.name + ".state")


def complete(path: Path, file: BinaryIO) -> None:
    """Make a file durable and give it its name.

    Args:
        path: of the complete file.
        file: the unfinished one.
    """
    file.flush()
    os.fsync(file.fileno())
    part_of(path).replace(path)
    _sync_directory(path)


class LineSink(Unreadable):
    """Writes lines, compressed by zstd or plain.

    Args:
        path: of the complete file.
        file: the unfinished one, from `part_file`.
        request: the options of the export; an unfinished file of other options is refused.
        is_compressed: whether the lines are compressed.

    Raises:
        InvalidArgumentError: the unfinished file is of an export with other options.
    """

    def __init__(self, path: Path, file: BinaryIO, request: Mapping[str, Any], *, is_compressed: bool) -> None:
        super().__init__()
        self.position: Position | None = None
        self.rows = 0
        self._path = path
        self._file = file
        self._request = dict(request)
        self._checksum = 0
        self._since_durable = 0
        self._is_whole = True
        self._resume()
        self._compressor = stream_compressor(LEVEL, WINDOW_LOG) if is_compressed else None

    def write(self, lines: Lines) -> None:
        """Write a batch of rows."""
        # A second Ctrl-C can interrupt this at any place: then what was written is not what is counted.
        self._is_whole = False
        for trace_id in lines.unreadable:
            self.leave_out(trace_id)
        if lines.rows:
            content = lines.content
            self._checksum = zlib.crc32(content, self._checksum)
            self._file.write(content if self._compressor is None else self._compressor.compress(content))
            self.rows += lines.rows
            self._since_durable += len(content)
        self.position = lines.position
        if self._since_durable >= _DURABLE_AFTER:
            self._make_durable(self.position)
        self._is_whole = True

    def keep(self) -> None:
        """Make durable what was written, so that the next export goes on after it."""
        if self._is_whole and self.position is not None:
            self._make_durable(self.position)

    def _make_durable(self, position: Position) -> None:
        self._end_frame()
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {
            "request": self._request,
            "offset": self._file.tell(),
            "rows": self.rows,
            "checksum": self._checksum,
            "unreadable": self.unreadable,
            "unreadable_ids": self.unreadable_ids,
            "position": [*position],
            "is_moment": isinstance(position.created_at, datetime),
        }
        new = state_of(self._path).with_suffix(".state-new")
        with new.open("wb") as file:
            file.write(orjson.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        new.replace(state_of(self._path))
        _sync_directory(self._path)
        self._since_durable = 0

    def finish(self) -> None:
        """Complete the file, and give it its name."""
        self._end_frame()
        content = summary_line(self.rows, self._checksum)
        self._file.write(content if self._compressor is None else self._compressor.compress(content))
        self._end_frame()
        complete(self._path, self._file)
        state_of(self._path).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: the caller closes the file."""

    def _end_frame(self) -> None:
        if self._compressor is not None:
            self._file.write(self._compressor.flush())

    def _resume(self) -> None:
        state: Any = None
        # A state without its file is of an export that was complete, or that was given up.
        if os.fstat(self._file.fileno()).st_size:
            with suppress(FileNotFoundError, ValueError):
                state = orjson.loads(state_of(self._path).read_bytes())
        if state is None:
            self._file.truncate(0)
            return
        if state["request"] != self._request:
            part = part_of(self._path).name
            raise InvalidArgumentError(
                "file", f"has an unfinished export with other options: repeat these, or delete {part}"
            )
        self._file.truncate(state["offset"])
        self._file.seek(state["offset"])
        self.rows, self._checksum = state["rows"], state["checksum"]
        self.unreadable, self.unreadable_ids = state["unreadable"], state["unreadable_ids"]
        organization_id, date, trace_id, table = state["position"]
        self.position = Position(
            organization_id, datetime.fromisoformat(date) if state["is_moment"] else date, trace_id, table
        )


def _sync_directory(path: Path) -> None:
    """Make the names of a directory's files durable; not every system can do it."""
    with suppress(OSError):
        descriptor = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
