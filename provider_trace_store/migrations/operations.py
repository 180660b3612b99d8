"""The operations of the running migration, independent of Alembic's own `op` and `context`.

Those two are global to the process. A host's migration, inside of which ours may run, is using them.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from alembic.operations import Operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.runtime.migration import MigrationContext

_running: Final[ContextVar[Operations]] = ContextVar("provider_trace_store_operations")


class _Running:
    """Passes every attribute on to the operations of the migration that runs in this thread or task."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the operation is
        return getattr(_running.get(), name)


# For the scripts and for what they call, in place of `alembic.op`.
op: Final = cast("Operations", _Running())


@contextmanager
def operations_of(context: MigrationContext) -> Iterator[None]:
    """Let `op` mean the operations of a migration while a block runs.

    Args:
        context: the context of the migration.
    """
    token = _running.set(Operations(context))
    try:
        yield
    finally:
        _running.reset(token)
