"""The column type of documents: exact JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Text, cast, type_coerce
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import UserDefinedType

from provider_trace_store.codec import Encoded, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class ExactJSON(UserDefinedType[Any]):
    """A JSON column: documents, dicts and lists, read back equal on every driver; None is SQL's NULL.

    The engine's `json_serializer` and `json_deserializer`, and the JSON settings of a driver, have no effect: documents
    are sent and read as text.

    The value of a parameter is a document, or its text as `encode` returns it. Call `encode` first where its error
    matters: SQLAlchemy wraps an error that is raised while it binds, and shows the parameters in the message.
    """

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the name of the type in DDL."""
        return "JSON"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Encoded | None]:  # noqa: ARG002  (SQLAlchemy's)
        """Return the function that turns a document into its stored text."""
        return _bound

    def bind_expression(self, bindvalue: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the parameter as text that the server casts, so that no driver encodes it as JSON once more."""
        return _SentAsText(bindvalue)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the column as text, so that no driver parses it."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002  (as above)
        """Return the function that turns a stored text into its document."""
        return _read


class _SentAsText(ColumnElement[Any]):
    """A parameter that PostgreSQL gets as text and casts to `json`; other databases have no type for JSON."""

    inherit_cache = True
    _traverse_internals = [("element", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  (SQLAlchemy's)

    def __init__(self, element: ColumnElement[Any]) -> None:
        self.element = element
        self.type = element.type


@compiles(_SentAsText)
def _as_it_is(sent: _SentAsText, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's)
    return str(compiler.process(sent.element, **options))


@compiles(_SentAsText, "postgresql")
def _cast(sent: _SentAsText, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's)
    return f"CAST(CAST({compiler.process(sent.element, **options)} AS TEXT) AS JSON)"


def _bound(value: object) -> Encoded | None:
    return value if value is None or isinstance(value, Encoded) else encode(value)


def _read(text: str | None) -> Any:  # noqa: ANN401  (a document is of any type)
    return None if text is None else decode(text)
