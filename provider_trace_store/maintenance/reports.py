"""What all reports of maintenance have: a form that every JSON writer writes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Report:
    """The base of the dataclasses that a function of maintenance returns."""

    def as_json(self: DataclassInstance) -> dict[str, Any]:
        """Return the report as values that every JSON writer writes; dates have the form of ISO 8601."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:  # noqa: ANN401  (the values of a dataclass)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
