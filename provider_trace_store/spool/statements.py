"""The SQL of the spool's files."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import MetaData, PrimaryKeyConstraint, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

if TYPE_CHECKING:
    from provider_trace_store.tables.kinds import Kind


@cache
def table_statement(kind: Kind) -> str:
    """Return the statement that creates a kind's table in a file of the spool.

    It has the columns of a row to insert only: files of earlier releases have the same, and no trace in a file is
    packed.
    """
    table = kind.table
    # A column belongs to one table; Alembic copies the same way.
    columns = [column._copy() for column in table.columns if column.name in kind.row_columns]  # noqa: SLF001
    key = PrimaryKeyConstraint(*(column.name for column in table.primary_key))
    return str(CreateTable(Table(table.name, MetaData(), *columns, key)).compile(dialect=sqlite.dialect()))


@cache
def insert_statement(table: str, kind: Kind, before: tuple[str, ...] = ()) -> str:
    """Return the statement that inserts a row of a kind, with its documents as bytes.

    Args:
        table: the table, which has all columns of the kind's table.
        kind: the kind.
        before: further columns of the table, which come before those of the kind.
    """
    documents = {place for place, _ in kind.layout.documents}
    columns = kind.row_columns
    # The bytes are UTF-8 text already: the cast changes their type, and nothing is decoded or encoded again.
    values = ("CAST(? AS TEXT)" if place in documents else "?" for place in range(len(columns)))
    names, marks = ", ".join([*before, *columns]), ", ".join([*("?" for _ in before), *values])
    return f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608  (constants)


@cache
def select_statement(kind: Kind) -> str:
    """Return the statement that reads the rows after a `rowid`, with their documents as bytes."""
    documents = {place for place, _ in kind.layout.documents}
    names = enumerate(kind.row_columns)
    columns = (f"CAST({name} AS BLOB)" if place in documents else name for place, name in names)
    table = kind.table.name
    return f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"  # noqa: S608  (constants)
