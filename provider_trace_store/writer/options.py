"""The options of a writer, which check themselves."""

from __future__ import annotations

import inspect
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session

from provider_trace_store.errors import InvalidWriterOptionError, ProviderTraceStoreError
from provider_trace_store.spool.directory import DirectoryRefusedError, has_files, prepared
from provider_trace_store.tables.kinds import kind_for
from provider_trace_store.tables.rows import DEFAULT_MAX_BODY_BYTES, check_max_body_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from provider_trace_store.tables.kinds import Kind

OnFull = Literal["spool", "block", "drop"]
Durability = Literal["memory", "spool"]

_MIB: Final = 2**20
_CHECK: Final = "check"

_Self = TypeVar("_Self")
_Keywords = ParamSpec("_Keywords")


def _count(default: int, high: int | None = None) -> Any:  # noqa: ANN401  (as `dataclasses.field`)
    """Return a field that holds a whole number of 1 or more."""

    def check(name: str, value: object) -> None:
        if type(value) is not int or value < 1 or (high is not None and value > high):
            raise InvalidWriterOptionError(name, f"must be a whole number of 1 {f'to {high:,}' if high else 'or more'}")

    return field(default=default, metadata={_CHECK: check})


def _seconds(default: float, low: float = 0.0, high: float = 3600.0) -> Any:  # noqa: ANN401  (as `dataclasses.field`)
    """Return a field that holds a time in seconds."""

    def check(name: str, value: object) -> None:
        if type(value) not in {int, float} or not isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]  # its type was checked
            raise InvalidWriterOptionError(name, f"must be seconds from {low:g} to {high:,g}")

    return field(default=default, metadata={_CHECK: check})


@dataclass(frozen=True, repr=False)
class WriterOptions:
    """The arguments of `TraceWriter`; all but the first are keywords. `TraceWriter` makes this object itself.

    Args:
        bind: a synchronous `Engine`, or a `sessionmaker` or another callable that returns a `Session`. The writer uses
            one connection at a time, from the engine's pool. Give it an engine of its own (`pool_size=1`) if it must
            not compete with requests. An asynchronous host passes a synchronous engine of the same database.
        metadata_only: the flag: whether traces are stored without their bodies.
        max_body_bytes: as in `ProviderTraceRepository`.
        spool_dir: a directory on a local disk, created if it does not exist. Several writers and processes may share
            it. Traces that do not fit into memory wait there. With `durability="spool"` every trace is written there
            first. None for no spool.
        durability: `"memory"`: a process that is killed loses at most the traces in memory. `"spool"`: `submit` returns
            when the trace is in a file, and a process that is killed loses nothing. Default: `"spool"` if `spool_dir`
            is given, else `"memory"`.
        fsync: whether `submit` waits, with `durability="spool"`, until the trace would survive a loss of power.
        on_full: what happens to a trace when memory is full. `"spool"`: it goes to the spool. `"block"`: `submit` waits
            for at most `block_timeout`, then drops it. `"drop"`: it is dropped. If the spool takes no more, `"spool"`
            acts like `"block"`. Default: `"spool"` if `spool_dir` is given, else `"drop"`.
        block_timeout: in seconds, 0 to 3,600.
        max_queue_bytes: the most bytes that wait in memory; one trace may always wait, however large it is.
        max_queue_traces: the most traces that wait in memory.
        max_spool_bytes: about how many bytes the files of the spool may take on the disk, with rejected traces, which
            take at most half of them.
        batch_rows: the most traces in one transaction, 1 to 1,000.
        batch_bytes: the most bytes in one transaction; one trace may always be sent, however large it is.
        batch_age: how long a trace waits for others to be sent with it, in seconds, 0 to 3,600.
        transaction_timeout: how long one transaction may take, in seconds, 0.1 to 3,600. Then its connection is closed,
            and the batch is tried again on another one. Does not bound the time of connecting, which the engine's
            `connect_args={"connect_timeout": 10}` does, and does not apply to SQLite.
        max_retry_delay: the longest pause between two tries while the database is away, in seconds, 0.1 to 3,600.
        close_timeout: how long an exit of the process, SIGTERM and the end of a `with` block wait, in seconds, 0 to
            3,600.
        handle_sigterm: whether SIGTERM, and SIGINT, wait for the writer where their default action would end the
            process. A handler of the host's is left alone.
        on_rejected: called with the id and the error of each rejected trace, in the writer's thread or in the thread
            that closes the writer.

    Raises:
        InvalidWriterOptionError: an argument is invalid, or the spool's directory cannot be used.
        InvalidLimitError: `max_body_bytes` is out of its range.
    """

    bind: Engine | Callable[[], Session]
    _: KW_ONLY
    metadata_only: bool = False
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    spool_dir: str | os.PathLike[str] | None = None
    durability: Durability | None = None
    fsync: bool = False
    on_full: OnFull | None = None
    block_timeout: float = _seconds(1.0)
    max_queue_bytes: int = _count(64 * _MIB)
    max_queue_traces: int = _count(100_000)
    max_spool_bytes: int = _count(10 * 1024 * _MIB)
    batch_rows: int = _count(1000, high=1000)
    batch_bytes: int = _count(4 * _MIB)
    batch_age: float = _seconds(0.5)
    transaction_timeout: float = _seconds(60.0, low=0.1)
    max_retry_delay: float = _seconds(10.0, low=0.1)
    close_timeout: float = _seconds(30.0)
    handle_sigterm: bool = True
    on_rejected: Callable[[str, ProviderTraceStoreError], None] | None = None

    def __post_init__(self) -> None:
        """Check all options, resolve the defaults that depend on others, and create the spool's directory."""
        _check_bind(self.bind)
        check_max_body_bytes(self.max_body_bytes)
        for option in fields(self):
            if check := option.metadata.get(_CHECK):
                check(option.name, getattr(self, option.name))
        if self.spool_dir is not None:
            self._set("spool_dir", _created(Path(self.spool_dir)))
        has_spool = self.spool_dir is not None
        self._set("durability", self.durability or ("spool" if has_spool else "memory"))
        self._set("on_full", self.on_full or ("spool" if has_spool else "drop"))
        _check_choice("durability", self.durability, ("memory", "spool"), has_spool=has_spool)
        _check_choice("on_full", self.on_full, ("spool", "block", "drop"), has_spool=has_spool)
        if self.fsync and not self.is_durable:
            raise InvalidWriterOptionError("fsync", 'needs durability="spool"')

    @property
    def kind(self) -> Kind:
        """The table that traces are stored in."""
        return kind_for(metadata_only=self.metadata_only)

    @property
    def spool_path(self) -> Path | None:
        """The absolute path of the spool's directory, which exists; None for no spool."""
        return None if self.spool_dir is None else Path(self.spool_dir)

    @property
    def has_files(self) -> bool:
        """Whether the spool's directory has a file."""
        return self.spool_path is not None and has_files(self.spool_path)

    @property
    def is_durable(self) -> bool:
        """Whether all traces go through the spool."""
        return self.durability == "spool"

    def new_session(self) -> Session:
        """Return a new session of the engine, or of the host's callable."""
        return Session(self.bind) if isinstance(self.bind, Engine) else self.bind()

    def _set(self, name: str, value: object) -> None:
        # A frozen dataclass may complete itself only so.
        object.__setattr__(self, name, value)


def takes(
    options: Callable[_Keywords, WriterOptions],
) -> Callable[[Callable[[_Self, WriterOptions], None]], Callable[Concatenate[_Self, _Keywords], None]]:
    """Let a constructor that takes options take their fields as arguments, so that each option is named once.

    Args:
        options: the class of the options.
    """

    def decorate(init: Callable[[_Self, WriterOptions], None]) -> Callable[Concatenate[_Self, _Keywords], None]:
        signature = inspect.signature(options)

        @wraps(init)
        def wrapped(self: _Self, /, *args: _Keywords.args, **keywords: _Keywords.kwargs) -> None:
            # A wrong argument is an error here, which does not name the class of the options.
            signature.bind(*args, **keywords)
            init(self, options(*args, **keywords))

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]  # what `inspect.signature` reads
            parameters=[own, *signature.parameters.values()], return_annotation=None
        )
        wrapped.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()} | {
            "return": None
        }
        return wrapped

    return decorate


def _check_bind(bind: object) -> None:
    is_engine = isinstance(bind, Engine) and not bind.dialect.is_async
    if not is_engine and (isinstance(bind, Engine | AsyncEngine | async_sessionmaker) or not callable(bind)):
        reason = "must be a synchronous Engine or sessionmaker, because a thread without an event loop uses it"
        raise InvalidWriterOptionError("bind", f"{reason}; make one with create_engine() and the same URL")


def _check_choice(name: str, value: object, choices: tuple[str, ...], *, has_spool: bool) -> None:
    if value not in choices:
        raise InvalidWriterOptionError(name, f"must be one of {', '.join(choices)}")
    if value == "spool" and not has_spool:
        raise InvalidWriterOptionError(name, 'can be "spool" only with a spool_dir')


def _created(directory: Path) -> Path:
    try:
        return prepared(directory)
    except DirectoryRefusedError as error:
        problem = str(error)
    except OSError as error:
        problem = f"cannot be created or read: {error.strerror}"
    raise InvalidWriterOptionError("spool_dir", problem)
