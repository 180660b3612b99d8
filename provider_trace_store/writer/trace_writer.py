"""The writer: takes a trace in the path of a request, stores it in the background, and loses none silently."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session

from provider_trace_store.errors import InvalidWriterOptionError
from provider_trace_store.schemas import ProviderTrace
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.tables.rows import DEFAULT_MAX_BODY_BYTES, RowMaker
from provider_trace_store.writer import process
from provider_trace_store.writer.options import checked
from provider_trace_store.writer.pipeline import Pipeline
from provider_trace_store.writer.telemetry import instruments_for

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType

    from provider_trace_store.errors import ProviderTraceStoreError
    from provider_trace_store.writer.options import Durability, OnFull
    from provider_trace_store.writer.stats import WriterStats

_MIB: Final = 2**20
# How many pairs of organization and actor are remembered, so that each is checked once and not with every trace.
_OWNERS: Final = 1000
# How long a fork waits for what the thread is doing, in seconds. In the child, locks of SQLite's would be held for
# ever; a server's driver has next to none, and its transactions may take long.
_FORK_PATIENCE: Final = 5.0
_FORK_PATIENCE_WITH_A_SERVER: Final = 0.1

# What a forked child must not close: its parent still uses it.
_inherited: Final[list[object]] = []


class TraceWriter:
    """Takes traces from any thread and any event loop, and stores them in a thread of its own.

    `submit` copies a trace and returns; what becomes of it is in `stats`. Use it as a context manager, `with` or `async
    with`, or close it: an exit of the process and SIGTERM do so, too. In a forked child it begins anew, with nothing
    that is the parent's.

    Args:
        bind: a synchronous `Engine`, or a `sessionmaker` or another callable that returns a `Session`. It uses one
            connection at a time, of the engine's pool: give it an engine of its own (`pool_size=1`) where it shall not
            compete with requests. An asynchronous host hands over a synchronous engine of the same database.
        metadata_only: the flag: whether traces are stored without their bodies.
        max_body_bytes: as of `ProviderTraceRepository`.
        spool_dir: a directory on a local disk, made where there is none, which several writers and processes may share:
            what does not fit into memory waits there, and `durability="spool"` keeps everything there first. None for
            no spool.
        durability: `"memory"`: a process that is killed loses at most what is in memory. `"spool"`, the default with a
            `spool_dir`: `submit` returns when the trace is in a file, and a process that is killed loses nothing.
        fsync: whether `submit` waits, with `durability="spool"`, until the trace would survive a loss of power.
        on_full: what happens to a trace when memory is full: `"spool"`, the default with a `spool_dir`; `"block"`: wait
            for `block_timeout` at most, then drop; `"drop"`, the default without. Where the spool takes no more, it is
            as with `"block"`, unless `"drop"` was asked for.
        block_timeout: in seconds, 0 to 3,600.
        max_queue_bytes: what waits in memory at most, in bytes; one trace may always wait, however large.
        max_queue_traces: how many traces wait in memory at most.
        max_spool_bytes: about what waits in the spool at most, in bytes.
        batch_rows: how many traces are stored in one transaction at most, 1 to 1,000.
        batch_bytes: of how many bytes together at most, but at least one.
        batch_age: how long a trace waits for others to be stored with, in seconds, 0 to 3,600.
        max_retry_delay: the longest wait between two tries while the database is away, in seconds, 0.1 to 3,600.
        close_timeout: how long an exit of the process, SIGTERM and the end of a `with` wait, in seconds, 0 to 3,600.
        handle_sigterm: whether SIGTERM waits for the writer in a process that has no handler of its own; only where the
            writer is made in the main thread.
        on_rejected: called with the id and the error of each trace that is refused for good, in the writer's thread, or
            at a close in the one that closes.

    Raises:
        InvalidWriterOptionError: an argument cannot be meant, or the spool's directory cannot be made.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    def __init__(
        self,
        bind: Engine | Callable[[], Session],
        *,
        metadata_only: bool = False,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        spool_dir: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        fsync: bool = False,
        on_full: OnFull | None = None,
        block_timeout: float = 1.0,
        max_queue_bytes: int = 64 * _MIB,
        max_queue_traces: int = 100_000,
        max_spool_bytes: int = 10 * 1024 * _MIB,
        batch_rows: int = 1000,
        batch_bytes: int = 4 * _MIB,
        batch_age: float = 0.5,
        max_retry_delay: float = 10.0,
        close_timeout: float = 30.0,
        handle_sigterm: bool = True,
        on_rejected: Callable[[str, ProviderTraceStoreError], None] | None = None,
    ) -> None:
        is_engine = isinstance(bind, Engine) and not bind.dialect.is_async
        if not is_engine and (isinstance(bind, Engine | AsyncEngine | async_sessionmaker) or not callable(bind)):
            reason = "must be a synchronous Engine or sessionmaker: it is used in a thread that has no event loop"
            raise InvalidWriterOptionError("bind", f"{reason}; make one with create_engine() and the same URL")
        self._options = checked(
            kind_for(metadata_only=metadata_only),
            spool_dir=spool_dir,
            durability=durability,
            on_full=on_full,
            fsync=fsync,
            on_rejected=on_rejected,
            block_timeout=block_timeout,
            max_queue_bytes=max_queue_bytes,
            max_queue_traces=max_queue_traces,
            max_spool_bytes=max_spool_bytes,
            batch_rows=batch_rows,
            batch_bytes=batch_bytes,
            batch_age=batch_age,
            max_retry_delay=max_retry_delay,
            close_timeout=close_timeout,
        )
        self.close_timeout = self._options.close_timeout
        self._make_session: Callable[[], Session] = (lambda: Session(bind)) if isinstance(bind, Engine) else bind
        self._engines: set[Engine] = {bind} if isinstance(bind, Engine) else set()
        self._max_body_bytes = max_body_bytes
        self._owners: dict[tuple[str, str | None], RowMaker] = {}
        self._owner("-", None)
        self._instruments = instruments_for(self._system_name, lambda: self.stats)
        self._pipeline = self._new_pipeline()
        self._held: list[Any] = []
        process.manage(self, handle_sigterm=handle_sigterm)
        if self._options.has_files:
            self._pipeline.start()

    @property
    def stats(self) -> WriterStats:
        """What became of the traces that this process has submitted, and of those it has taken over."""
        return self._pipeline.stats

    def submit(self, trace: ProviderTrace, *, organization_id: str, actor_id: str | None = None) -> None:
        """Take a trace, and return before it is in the database, whose state it never raises for.

        The trace is copied: whatever happens to its dicts and lists later, what is stored is what they held now. One
        that cannot be stored exactly is rejected later, in the writer's thread.

        Args:
            trace: the call to record.
            organization_id: the tenant that owns it, as of `ProviderTraceRepository`.
            actor_id: who writes, where the trace does not say so itself.

        Raises:
            InvalidIdentifierError: `organization_id` or `actor_id` is not text that a column can hold.
            WriterClosedError: the writer was closed.
            TypeError: it is no `ProviderTrace`.
        """
        # Pydantic has an isinstance of its own, in Python.
        if type(trace) is not ProviderTrace and not isinstance(trace, ProviderTrace):
            raise TypeError(f"submit takes ProviderTrace, not {type(trace).__name__}")
        maker = self._owners.get((organization_id, actor_id)) or self._owner(organization_id, actor_id)
        self._pipeline.submit(trace, maker)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that this process has submitted before is stored, unchanged or rejected.

        Args:
            timeout: how long at most, in seconds.

        Returns:
            Whether it is. With `False`, nothing is lost: it goes on being tried.
        """
        return self._pipeline.flush(timeout)

    def drain(self, timeout: float) -> None:
        """Store what was submitted before the process ends, as far as that has a chance; see `process`."""
        self._pipeline.drain(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more traces, store those that were taken, leave the rest to the spool, and log what that is.

        While the database is away, what the spool keeps is not waited for. It is not for the handler of a signal, which
        may have interrupted a `submit`: let that raise SystemExit, or start a thread.

        Args:
            timeout: how long at most, in seconds; `close_timeout` by default.

        Returns:
            Whether all is stored, unchanged or rejected. Without a spool, what is not is lost, and counted as dropped.
        """
        is_all = self._pipeline.close(self.close_timeout if timeout is None else timeout)
        if self._pipeline.is_closed:
            process.release(self)
            self._instruments.close()
        return is_all

    async def aflush(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109  (the same in both forms)
        """Do as `flush`, while the event loop goes on."""
        return await asyncio.to_thread(self.flush, timeout)

    async def aclose(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  (the same in both forms)
        """Do as `close`, while the event loop goes on."""
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

    def before_fork(self) -> None:
        """Wait until no thread is in the middle of anything that the child gets a copy of; see `process`."""
        is_file = any(engine.dialect.name == "sqlite" for engine in tuple(self._engines))
        waits = {self._pipeline.delivering: _FORK_PATIENCE if is_file else _FORK_PATIENCE_WITH_A_SERVER}
        waits |= dict.fromkeys(self._pipeline.locks, _FORK_PATIENCE)
        self._held = [lock for lock, patience in waits.items() if lock.acquire(timeout=patience)]

    def after_fork_in_parent(self) -> None:
        """Go on."""
        held, self._held = self._held, []
        for lock in reversed(held):
            lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: with an empty queue, files and connections of the child's own, and counters at zero."""
        self._held = []
        self._pipeline.abandon()
        for engine in self._engines:
            # As SQLAlchemy's page on pooling says for os.fork(); kept, as collecting it would close its connections.
            _inherited.append(engine.pool)
            engine.dispose(close=False)
        self._pipeline = self._new_pipeline()

    def _owner(self, organization_id: str, actor_id: str | None) -> RowMaker:
        maker = RowMaker(self._options.kind.layout, organization_id, actor_id, self._max_body_bytes)
        if len(self._owners) >= _OWNERS:
            # Another thread may have it in hand already.
            self._owners = {}
        self._owners[organization_id, actor_id] = maker
        return maker

    def _session(self) -> Session:
        session = self._make_session()
        bind = session.get_bind(mapper=self._options.kind.record)
        self._engines.add(bind if isinstance(bind, Engine) else bind.engine)
        return session

    def _new_pipeline(self) -> Pipeline:
        return Pipeline(self._options, self._session, self._instruments)

    def _system_name(self) -> str:
        """Return what database it is, which is known when a session was made."""
        return next((engine.dialect.name for engine in tuple(self._engines)), "other_sql")
