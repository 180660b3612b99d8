"""Errors of the driver as errors of the package: the text of a driver's error can repeat content."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from provider_trace_store.database.drivers import sqlstate_of
from provider_trace_store.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated(command: str) -> Iterator[None]:
    """Run a block, and raise MaintenanceError in place of an error of the driver.

    Args:
        command: the name of the command, for the message.
    """
    state = None
    try:
        yield
    except DBAPIError as error:
        state = sqlstate_of(error) or type(error.orig).__name__
    # Outside of the handler: the error of the driver would be chained.
    if state is not None:
        raise MaintenanceError(f"the database failed ({state}); what was done stays, and the same {command} goes on")
