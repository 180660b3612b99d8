"""Filters for Alembic's autogenerate: the host's ignores the package's tables, the package's ignores all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Index, MetaData

from provider_trace_store.migrations.indexes import missing_indexes
from provider_trace_store.tables.models import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.schema import SchemaItem

    _IncludeName = Callable[[str | None, str, Mapping[str, str | None]], bool]
    _IncludeObject = Callable[[SchemaItem, str | None, str, bool, SchemaItem | None], bool]

VERSION_TABLE: Final = "provider_trace_store_alembic_version"


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
    """Return whether a host's autogenerate may compare an object: True for everything but the tables of this package.

    For a host's `env.py`: `context.configure(..., include_name=include_name)`. Without the filter, the host's
    autogenerate proposes to drop the package's tables, because the host's own metadata does not contain them.

    Args:
        name: as Alembic passes it; see the documentation of `EnvironmentContext.configure.include_name`.
        type_: as Alembic passes it, `table` among others.
        parent_names: as Alembic passes it.
    """
    del parent_names
    return type_ != "table" or not _is_ours(name)


def include_object(
    item: SchemaItem,
    name: str | None,
    type_: str,
    reflected: bool,  # noqa: FBT001  # Alembic's signature
    compare_to: SchemaItem | None,
) -> bool:
    """Return whether a host's autogenerate may compare an object: as `include_name`, also for mapped tables.

    For a host's `env.py`, beside `include_name`: `context.configure(..., include_object=include_object)`. Alembic asks
    `include_name` only about tables of the database. A host whose own metadata has these tables needs this filter, too:
    without it, autogenerate proposes to create them.

    Args:
        item: as Alembic passes it; see the documentation of `EnvironmentContext.configure.include_object`.
        name: as Alembic passes it.
        type_: as Alembic passes it, `table` among others.
        reflected: as Alembic passes it.
        compare_to: as Alembic passes it.
    """
    del reflected, compare_to
    table = getattr(item, "table", None)
    owner = name if type_ == "table" else getattr(table, "name", None)
    return not _is_ours(owner)


def schema_metadata(schema: str | None) -> MetaData:
    """Return the metadata of the package's tables in a schema, which autogenerate compares the database with.

    Args:
        schema: the schema; None for the connection's default.
    """
    if schema is None:
        return metadata
    moved = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(moved, schema=schema)
    return moved


def compare_filters(connection: Connection, schema: str | None) -> tuple[_IncludeName, _IncludeObject]:
    """Return the filters for the autogenerate of this package: they ignore everything that a host may have changed.

    A column, an index or a foreign key that a host added to a table belongs to the host. An index with the right
    columns counts under any name, and `created_at` may be nullable, as in existing deployments.

    Args:
        connection: the database to compare.
        schema: the schema of the tables; None for the connection's default.

    Returns:
        Alembic's `include_name` and `include_object`.
    """

    def include_own_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        del parent_names
        if type_ == "schema":
            return name == schema
        return type_ != "table" or name in metadata.tables

    def include_own_object(
        item: SchemaItem,
        name: str | None,
        type_: str,
        reflected: bool,  # noqa: FBT001  # Alembic's signature
        compare_to: SchemaItem | None,
    ) -> bool:
        if reflected and compare_to is None:
            return False
        if isinstance(item, Column) and isinstance(compare_to, Column):
            return not (name == "created_at" and compare_to.nullable and not item.nullable)
        if isinstance(item, Index) and type_ == "index" and not reflected and item.table is not None:
            return item.name in {index.name for index in missing_indexes(connection, item.table)}
        return True

    return include_own_name, include_own_object


def _is_ours(table: str | None) -> bool:
    return table == VERSION_TABLE or table in metadata.tables
