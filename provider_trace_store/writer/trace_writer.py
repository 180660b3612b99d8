"""The writer: takes a trace in the path of a request, stores it in the background, and loses none silently."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from sqlalchemy import Engine

from provider_trace_store.schemas import ProviderTrace
from provider_trace_store.spool.spool import Spool
from provider_trace_store.tables.rows import RowMaker
from provider_trace_store.writer import process
from provider_trace_store.writer.intake import Intake
from provider_trace_store.writer.logs import ThrottledLog
from provider_trace_store.writer.options import WriterOptions, takes
from provider_trace_store.writer.state import SharedState
from provider_trace_store.writer.telemetry import telemetry_for
from provider_trace_store.writer.transaction import DatabaseDestination
from provider_trace_store.writer.worker import Worker

if TYPE_CHECKING:
    from threading import Lock
    from types import TracebackType

    from sqlalchemy.orm import Session

    from provider_trace_store.writer.stats import WriterStats

# The number of row makers that are kept, one for each organization and actor, so that each pair is checked once.
_MAX_MAKERS: Final = 1000
# How long a fork waits for a transaction, in seconds. A SQLite lock that is held during a fork is held in the child for
# ever. A driver that talks to a server holds few locks, and its transactions may take long.
_FORK_PATIENCE: Final = 5.0
_FORK_PATIENCE_WITH_A_SERVER: Final = 0.1

# Connection pools of a parent process. A forked child must not close their connections: the parent still uses them.
_inherited: Final[list[object]] = []


class _Parts(NamedTuple):
    """The objects of a writer that a forked child makes anew."""

    spool: Spool | None
    state: SharedState
    intake: Intake
    worker: Worker


class TraceWriter:
    """Takes traces from any thread and any event loop, and stores them in a thread of its own.

    `submit` copies a trace and returns; `stats` says what became of it. Use the writer as a context manager, `with` or
    `async with`, or close it. An exit of the process and SIGTERM close it, too. A forked child has a new writer,
    without the traces of its parent.

    Args:
        bind: a synchronous `Engine`, or a `sessionmaker` or another callable that returns a `Session`; see
            `WriterOptions`, which describes this argument and all keywords.

    Raises:
        InvalidWriterOptionError: an argument is invalid, or the spool's directory cannot be created or read.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    @takes(WriterOptions)
    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._engines: set[Engine] = {options.bind} if isinstance(options.bind, Engine) else set()
        self._makers: dict[tuple[str, str | None], RowMaker] = {}
        self._telemetry = telemetry_for(self._system_name, lambda: self.stats)
        # Made with the first trace of each process: after the host has patched `threading`, where gevent does so.
        self._parts: _Parts | None = None
        self._by_process: dict[None, _Parts] = {}
        self._in_process = _InProcess(self)
        process.manage(self._in_process)
        if options.has_files:
            # Before the first trace: a dead process left rows in the spool.
            self._begun().worker.start()

    @property
    def stats(self) -> WriterStats:
        """What became of the traces that this process has submitted, and of those that it has taken over."""
        parts = self._begun()
        return parts.state.stats(parts.spool.size if parts.spool else 0)

    def submit(self, trace: ProviderTrace, *, organization_id: str, actor_id: str | None = None) -> None:
        """Take a trace, and return before it is in the database; no error of the database is raised here.

        The trace is copied: later changes of its dicts and lists do not reach the copy. A trace that cannot be stored
        exactly is rejected later, in the writer's thread.

        Args:
            trace: the call to record.
            organization_id: the tenant that owns it, as in `ProviderTraceRepository`.
            actor_id: the actor of the write: the default of the trace's `created_by_id` and `last_updated_by_id`.

        Raises:
            InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
            WriterClosedError: the writer was closed.
            TypeError: `trace` is not a `ProviderTrace`.
        """
        # The exact type first: Pydantic's own isinstance is written in Python.
        if type(trace) is not ProviderTrace and not isinstance(trace, ProviderTrace):
            raise TypeError(f"submit takes ProviderTrace, not {type(trace).__name__}")
        maker = self._makers.get((organization_id, actor_id)) or self._new_maker(organization_id, actor_id)
        parts = self._parts or self._begun()
        # First: an exception of a signal's handler may end this submit when the trace is taken.
        if not parts.worker.is_started:
            parts.worker.start()
        parts.intake.submit(trace, maker)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every trace that this process has submitted before is stored, unchanged or rejected.

        Args:
            timeout: how long to wait, in seconds.

        Returns:
            Whether all of them are. If it is False, nothing is lost: the writer keeps trying.
        """
        return self._begun().worker.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more traces, store those that were taken, leave the rest to the spool, and log what was not stored.

        While the database is away, a close does not wait for traces that the spool keeps. Do not call it in the handler
        of a signal, which may have interrupted a `submit`: let the handler raise SystemExit, or start a thread.

        Args:
            timeout: how long to wait, in seconds; `close_timeout` by default.

        Returns:
            Whether every trace is stored, unchanged or rejected. Without a spool, the others are lost, and are counted
            as dropped.
        """
        parts = self._begun()
        is_all = parts.worker.close(self._options.close_timeout if timeout is None else timeout)
        if parts.worker.is_closed:
            process.release(self._in_process)
            self._telemetry.close()
        return is_all

    async def aflush(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109  (the same in both forms)
        """Do as `flush`, without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    async def aclose(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  (the same in both forms)
        """Do as `close`, without blocking the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _new_maker(self, organization_id: str, actor_id: str | None) -> RowMaker:
        options = self._options
        maker = RowMaker(options.kind.layout, organization_id, actor_id, options.max_body_bytes)
        if len(self._makers) >= _MAX_MAKERS:
            # A new dict: another thread may be reading the old one.
            self._makers = {}
        self._makers[organization_id, actor_id] = maker
        return maker

    def _begun(self) -> _Parts:
        """Return the parts of this process; of two threads that make them at once, the first one's are taken."""
        if self._parts is None:
            self._parts = self._by_process.setdefault(None, self._new_parts())
        return self._parts

    def _new_parts(self) -> _Parts:
        options = self._options
        state, log = SharedState(options), ThrottledLog()
        spool = None
        if options.spool_path is not None:
            spool = Spool(
                options.spool_path,
                options.kind,
                max_bytes=options.max_spool_bytes,
                fsync=options.fsync,
                on_change=state.changed_in_spool,
            )
        destination = DatabaseDestination(self._new_session, self._options.transaction_timeout)
        worker = Worker(options, state, spool, destination, telemetry=self._telemetry, log=log)
        return _Parts(spool, state, Intake(options, state, spool, log), worker)

    def _new_session(self) -> Session:
        session = self._options.new_session()
        bind = session.get_bind(mapper=self._options.kind.record)
        self._engines.add(bind if isinstance(bind, Engine) else bind.engine)
        return session

    def _system_name(self) -> str:
        """Return the name of the database, which is known after the first session."""
        return next((engine.dialect.name for engine in tuple(self._engines)), "other_sql")


class _InProcess:
    """A writer as its process sees it: see `process.Managed`.

    Args:
        writer: the writer.
    """

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._held: list[Lock] = []
        self.close_timeout = writer._options.close_timeout
        self.handle_sigterm = writer._options.handle_sigterm

    @property
    def waiting(self) -> int:
        """How many traces wait in memory; no lock is taken."""
        parts = self._writer._parts
        return len(parts.state.queue) if parts else 0

    def drain(self, timeout: float) -> None:
        """Store the traces in memory; do not wait for a database that is away if the spool takes the rest."""
        if parts := self._writer._parts:
            parts.state.flush(timeout, is_patient=parts.spool is None)

    def close(self, timeout: float) -> bool:
        """Close the writer."""
        return self._writer.close(timeout)

    def before_fork(self) -> None:
        """Take every lock, so that the child gets no copy of something half done."""
        writer, parts = self._writer, self._writer._parts
        if parts is None:
            return
        is_file = any(engine.dialect.name == "sqlite" for engine in tuple(writer._engines))
        locks = [parts.spool.reading, parts.spool.lock] if parts.spool else []
        waits = {parts.worker.delivering: _FORK_PATIENCE if is_file else _FORK_PATIENCE_WITH_A_SERVER}
        waits |= dict.fromkeys([*locks, parts.state.lock], _FORK_PATIENCE)
        self._held = [lock for lock, patience in waits.items() if lock.acquire(timeout=patience)]

    def after_fork_in_parent(self) -> None:
        """Release the locks."""
        held, self._held = self._held, []
        for lock in reversed(held):
            lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: an empty queue, files and connections of the child's own, counters at zero."""
        writer = self._writer
        self._held = []
        if (parts := writer._parts) is not None and parts.spool is not None:
            parts.spool.abandon()
        for engine in writer._engines:
            # As SQLAlchemy's page on pooling says for os.fork(). The pool is kept: collecting it would close its
            # connections.
            _inherited.append(engine.pool)
            engine.dispose(close=False)
        writer._parts = None
        writer._by_process = {}
