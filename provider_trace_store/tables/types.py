"""The column type of documents: exact JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, type_coerce
from sqlalchemy.types import UserDefinedType

from provider_trace_store.codec import Encoded, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Dialect


class ExactJSON(UserDefinedType[Any]):
    """A JSON column: documents, dicts and lists, read back equal on every driver; None is SQL's NULL.

    The engine's `json_serializer` and `json_deserializer`, and the JSON settings of a driver, have no effect: documents
    are sent and read as text.

    The value of a parameter is a document, or its text as `encode` returns it. Call `encode` first where its error
    matters: SQLAlchemy wraps an error that is raised while it binds, and shows the parameters in the message.
    """

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: object) -> str:
        """Return the name of the type in DDL."""
        return "JSON"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Encoded | None]:  # noqa: ARG002  (SQLAlchemy's)
        """Return the function that turns a document into its stored text."""
        return _bound

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the column as text, so that no driver parses it."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002  (as above)
        """Return the function that turns a stored text into its document."""
        return _read


def _bound(value: object) -> Encoded | None:
    return value if value is None or isinstance(value, Encoded) else encode(value)


def _read(text: str | None) -> Any:  # noqa: ANN401  (a document is of any type)
    return None if text is None else decode(text)
