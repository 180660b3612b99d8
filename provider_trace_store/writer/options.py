"""How a writer was asked to work, checked."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from provider_trace_store.errors import InvalidWriterOptionError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from provider_trace_store.errors import ProviderTraceStoreError
    from provider_trace_store.tables.kinds import Kind

OnFull = Literal["spool", "block", "drop"]
Durability = Literal["memory", "spool"]

MAX_BATCH_ROWS: Final = 1000
_COUNTS: Final = ("max_queue_bytes", "max_queue_traces", "max_spool_bytes", "batch_rows", "batch_bytes")
_SECONDS: Final = ("block_timeout", "batch_age", "max_retry_delay", "close_timeout")
_LONGEST: Final = 3600.0
_SHORTEST_DELAY: Final = 0.1


@dataclass(frozen=True)
class WriterOptions:
    """The options of `TraceWriter`, which says what each is.

    Args:
        kind: the table.
        spool_dir: an absolute path that exists, or None.
    """

    kind: Kind
    spool_dir: Path | None
    durability: Durability
    on_full: OnFull
    fsync: bool
    on_rejected: Callable[[str, ProviderTraceStoreError], None] | None
    block_timeout: float
    max_queue_bytes: int
    max_queue_traces: int
    max_spool_bytes: int
    batch_rows: int
    batch_bytes: int
    batch_age: float
    max_retry_delay: float
    close_timeout: float

    @property
    def has_files(self) -> bool:
        """Whether there is something in the spool's directory."""
        return self.spool_dir is not None and any(self.spool_dir.iterdir())

    @property
    def is_durable(self) -> bool:
        """Whether all traces go through the spool."""
        return self.durability == "spool"


def checked(
    kind: Kind,
    *,
    spool_dir: str | os.PathLike[str] | None,
    durability: Durability | None,
    on_full: OnFull | None,
    fsync: bool,
    **others: Any,  # noqa: ANN401  (of several types)
) -> WriterOptions:
    """Return options that can be meant, and make the spool's directory where there is none.

    Args:
        kind: the table.
        spool_dir: as of `TraceWriter`, like all that follow.
        durability: None for what goes with `spool_dir`.
        on_full: likewise.
        fsync: as of `TraceWriter`.
        others: likewise.

    Raises:
        InvalidWriterOptionError: one of them cannot be meant, or the directory cannot be made.
    """
    for name in _COUNTS:
        _check_count(name, others)
    for name in _SECONDS:
        _check_seconds(name, others)
    directory = None if spool_dir is None else _made(Path(spool_dir))
    default: Any = None if directory is None else "spool"
    options = WriterOptions(
        kind=kind,
        spool_dir=directory,
        durability=durability or default or "memory",
        on_full=on_full or default or "drop",
        fsync=fsync,
        **others,
    )
    _check_choice("durability", options.durability, ("memory", "spool"), directory)
    _check_choice("on_full", options.on_full, ("spool", "block", "drop"), directory)
    if fsync and not options.is_durable:
        raise InvalidWriterOptionError("fsync", 'needs durability="spool"')
    return options


def _check_count(name: str, given: Mapping[str, Any]) -> None:
    value = given[name]
    high = MAX_BATCH_ROWS if name == "batch_rows" else None
    if type(value) is not int or value < 1 or (high is not None and value > high):
        raise InvalidWriterOptionError(name, f"must be a whole number of 1 {f'to {high:,}' if high else 'or more'}")


def _check_seconds(name: str, given: Mapping[str, Any]) -> None:
    value = given[name]
    low = _SHORTEST_DELAY if name == "max_retry_delay" else 0.0
    if type(value) not in {int, float} or not isfinite(value) or not low <= value <= _LONGEST:
        raise InvalidWriterOptionError(name, f"must be seconds from {low:g} to {_LONGEST:,g}")


def _check_choice(name: str, value: str, choices: tuple[str, ...], directory: Path | None) -> None:
    if value not in choices:
        raise InvalidWriterOptionError(name, f"must be one of {', '.join(choices)}")
    if value == "spool" and directory is None:
        raise InvalidWriterOptionError(name, 'can be "spool" only with a spool_dir')


def _made(directory: Path) -> Path:
    try:
        # Bodies are nobody else's business.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        any(directory.iterdir())
    except OSError as error:
        problem = error.strerror
    else:
        return directory.resolve()
    raise InvalidWriterOptionError("spool_dir", f"cannot be made or read: {problem}")
