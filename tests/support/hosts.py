"""A table of a host application, in the same database as ours."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class HostBase(DeclarativeBase):
    """The base of a host application's own tables."""


class HostRow(HostBase):
    """A row of the host's, in the same session. No test creates its table: a flush of it fails."""

    __tablename__ = "host_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
