"""The machinery of all commands for operators: progress, throttle, a stop between batches, one command at a time."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from sqlalchemy import text

from provider_trace_store.errors import InvalidArgumentError, MaintenanceError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

    from sqlalchemy import Connection, Engine

# The advisory lock's first key: "pts " in ASCII. The second is a hash of the schema. The keys must never change, or two
# versions of the package could run two commands at the same time.
_LOCK: Final = 0x70747320
_MB: Final = 1_000_000

_SCHEMA: Final = "hashtext(coalesce(CAST(:schema AS text), current_schema(), ''))"
_TRY: Final = text(f"SELECT pg_try_advisory_xact_lock(CAST(:lock AS int), {_SCHEMA})")
# `transaction_timeout` exists from PostgreSQL 17 on.
_NO_TIMEOUTS: Final = text(
    "SELECT set_config(name, '0', true) FROM pg_settings "
    "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_NO_SNAPSHOT: Final = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_HOLDER: Final = text(
    f"""
    SELECT locks.pid, usename AS role, application_name AS application, xact_start AS since
    FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND CAST(classid AS bigint) = :lock
        AND CAST(objid AS bigint) = CAST({_SCHEMA} AS bigint) & 4294967295
        AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """  # noqa: S608  (constants)
)


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a command after a batch.

    Args:
        command: the command, such as `pack`.
        done: the number of traces that are done.
        total: the number of traces to do, an estimate; None if it is not known.
        raw_bytes: the bytes of the documents of the traces that are done.
        saved_bytes: the bytes that the traces that are done take less than before; None if the command saves none.
        bytes_per_second: the bytes of documents a second, since the command began.
        seconds_left: how long the command goes on, an estimate; None if it is not known.
        resume_at: where the command is, for a message; a command that is run again finds its place by itself.
        unit: the name of the things that are counted.
        per_second: the things that are done a second, since the command began.
    """

    command: str
    done: int
    total: int | None
    raw_bytes: int
    saved_bytes: int | None
    bytes_per_second: float
    seconds_left: float | None
    resume_at: str | None
    unit: str = "traces"
    per_second: float = 0.0


class Meter:
    """Counts what a command has done, and tells it after each batch.

    Args:
        command: the command, such as `pack`.
        on_progress: called with the state after each batch; None to tell nobody.
        total: the number of traces to do, an estimate; None if it is not known.
        unit: as `Progress.unit`.
    """

    def __init__(
        self,
        command: str,
        on_progress: Callable[[Progress], object] | None,
        total: int | None,
        *,
        unit: str = "traces",
    ) -> None:
        self._command = command
        self._on_progress = on_progress
        self._unit = unit
        self._began = time.monotonic()
        self.total = total
        self.done = 0
        self.raw_bytes = 0

    @property
    def seconds(self) -> float:
        """The time since the command began, in seconds."""
        return time.monotonic() - self._began

    def add(self, traces: int, raw_bytes: int, *, saved_bytes: int | None = None, resume_at: str | None = None) -> None:
        """Count a batch, and call `on_progress`.

        Args:
            traces: the traces of the batch, those that were skipped among them.
            raw_bytes: the bytes of the documents of the batch.
            saved_bytes: the bytes that were saved since the command began.
            resume_at: as `Progress.resume_at`.
        """
        self.done += traces
        self.raw_bytes += raw_bytes
        if self._on_progress is None:
            return
        seconds = max(self.seconds, 1e-9)
        left = None if self.total is None or not self.done else seconds / self.done * max(self.total - self.done, 0)
        rate = self.raw_bytes / seconds
        self._on_progress(
            Progress(
                self._command,
                self.done,
                self.total,
                self.raw_bytes,
                saved_bytes,
                rate,
                left,
                resume_at,
                self._unit,
                self.done / seconds,
            )
        )


class Throttle:
    """Pauses after each batch.

    Args:
        rate: the most MB (a million bytes) of documents a second, or the most rows; None for no limit.
        pause: the pause after each batch, in seconds.
        unit: what the rate counts: "MB" of documents, or "rows" of a command that reads no document.

    Raises:
        InvalidArgumentError: one of the numbers is out of its range.
    """

    def __init__(self, rate: float | None, pause: float, *, unit: Literal["MB", "rows"] = "MB") -> None:
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidArgumentError("rate", f"must be a number of {unit} a second, more than 0")
        if not 0 <= pause < math.inf:
            raise InvalidArgumentError("pause", "must be a number of seconds, 0 or more")
        self._rate = rate
        self._pause = pause
        self._unit = _MB if unit == "MB" else 1
        self._began = time.monotonic()
        self._done = 0

    def wait(self, done: int, stop: Stop) -> None:
        """Wait after a batch, until the rate is kept and the pause is over.

        Args:
            done: the bytes of the documents of the batch, or its rows.
            stop: ends the wait at once.
        """
        self._done += done
        behind = 0.0
        if self._rate is not None:
            behind = self._done / (self._rate * self._unit) - (time.monotonic() - self._began)
        if (seconds := max(behind, self._pause)) > 0:
            stop.wait(seconds)


class Stop:
    """Turns Ctrl-C into a stop between two batches: a context manager.

    The first SIGINT is noted, and `check` raises KeyboardInterrupt after the batch; the second one interrupts at once.
    In a thread, and where the host has a handler of its own, Ctrl-C does what it did.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._is_installed = False

    def __enter__(self) -> Self:
        is_ours = threading.current_thread() is threading.main_thread()
        if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._is_installed = True
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested."""
        if self._event.is_set():
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> None:
        """Wait, or raise KeyboardInterrupt as soon as a stop is requested.

        Args:
            seconds: how long to wait.
        """
        end = time.monotonic() + seconds
        # In short steps: a signal's handler does not run while a lock of the interpreter's is waited for everywhere.
        while (left := end - time.monotonic()) > 0:
            self._event.wait(min(left, 0.2))
            self.check()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._event.set()
        self._restore()

    def _restore(self) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._is_installed = False


@contextmanager
def one_at_a_time(engine: Engine) -> Iterator[None]:
    """Run a block while no other command of maintenance runs on the same tables.

    PostgreSQL: a transaction on a connection of its own holds an advisory lock, which a pooler of transactions keeps,
    too. It has no snapshot, so it does not hold VACUUM back. SQLite: nothing is locked, because each transaction that
    changes rows checks them again.

    Args:
        engine: its pool must have a second connection for the command.

    Raises:
        MaintenanceError: another command runs; the message names its session.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection, connection.begin():
        names = {"lock": _LOCK, "schema": schema_of(connection)}
        connection.execute(_NO_TIMEOUTS)
        if not connection.scalar(_TRY, names):
            raise MaintenanceError(f"another command of maintenance runs on these tables: {_holder(connection, names)}")
        # The server keeps the last SELECT's portal, and its snapshot, until the next statement.
        connection.execute(_NO_SNAPSHOT)
        yield


def schema_of(connection: Connection) -> str | None:
    """Return the schema of the package's tables; None for the connection's default.

    Args:
        connection: its `schema_translate_map` decides.
    """
    translated: dict[str | None, str | None] = connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get(None)


def _holder(connection: Connection, names: dict[str, Any]) -> str:
    found = connection.execute(_HOLDER, names).first()
    if found is None:
        return "it has just ended; run this one again"
    # PostgreSQL shows a session of another role only to members of pg_read_all_stats.
    application = shown(found.application) if found.application else "not known"
    since = "not known" if found.since is None else f"{found.since:%Y-%m-%d %H:%M:%S%z}"
    return (
        f"pid {found.pid}, role {shown(found.role or 'not known')}, application {application}, since {since}; wait for "
        f"its end, or end it with SELECT pg_terminate_backend({found.pid})"
    )
