"""The part of a writer that belongs to one process: what takes traces, what holds them, the thread that sends them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from provider_trace_store.spool.spool import Spool
from provider_trace_store.writer.intake import Intake
from provider_trace_store.writer.retries import Sender
from provider_trace_store.writer.state import Ledger
from provider_trace_store.writer.stats import Occasionally
from provider_trace_store.writer.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock

    from sqlalchemy.orm import Session

    from provider_trace_store.schemas import BaseProviderTrace
    from provider_trace_store.tables.rows import RowMaker
    from provider_trace_store.writer.options import WriterOptions
    from provider_trace_store.writer.stats import WriterStats
    from provider_trace_store.writer.telemetry import Instruments

logger: Final = logging.getLogger("provider_trace_store.writer")


class Pipeline:
    """Takes traces from any thread, and sends them in one of its own, which starts with the first of them.

    Args:
        options: how it is to work.
        sessions: makes sessions, which are used one after the other.
        instruments: told of what it does.
    """

    def __init__(self, options: WriterOptions, sessions: Callable[[], Session], instruments: Instruments) -> None:
        self._spool = (
            Spool(options.spool_dir, options.kind, max_bytes=options.max_spool_bytes, fsync=options.fsync)
            if options.spool_dir
            else None
        )
        self._ledger = Ledger(options)
        occasionally = Occasionally(logger)
        self._intake = Intake(options, self._ledger, self._spool, occasionally)
        rejects = self._spool.rejects if self._spool else None
        self._sender = Sender(options, sessions, rejects, instruments, occasionally)
        self._worker = Worker(options, self._ledger, self._spool, self._sender, occasionally)

    @property
    def stats(self) -> WriterStats:
        """The counters, of one moment."""
        return self._ledger.stats(self._spool.size if self._spool else 0)

    @property
    def locks(self) -> list[Lock]:
        """The locks of what ends soon, in the order in which they are taken."""
        return [*([self._spool.reading, self._spool.lock] if self._spool else []), self._ledger.lock]

    @property
    def delivering(self) -> Lock:
        """The lock of what may take as long as the database likes, taken before the others."""
        return self._sender.delivering

    @property
    def is_closed(self) -> bool:
        """Whether a close has come to its end."""
        return self._worker.is_closed

    def start(self) -> None:
        """Start the thread before the first trace, for what a dead process left in the spool."""
        self._worker.start()

    def submit(self, trace: BaseProviderTrace, maker: RowMaker) -> None:
        """Take a trace, and return before it is stored; WriterClosedError where it was not taken."""
        self._intake.submit(trace, maker)
        if not self._worker.is_started:
            self._worker.start()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was submitted before is stored, unchanged or rejected, and return whether it is."""
        return self._ledger.flush(timeout)

    def drain(self, timeout: float) -> None:
        """Do as `flush`, but do not wait for a database that is away, where the spool takes what is left."""
        self._ledger.flush(timeout, is_patient=self._spool is None)

    def close(self, timeout: float) -> bool:
        """Take no more, store what was taken, leave the rest to the spool, and return whether there was no rest."""
        return self._worker.close(timeout)

    def abandon(self) -> None:
        """Forget everything, in a forked child: it is the parent's."""
        if self._spool is not None:
            self._spool.abandon()
