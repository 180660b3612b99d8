"""Every public name is imported from its documented place. A name that moves breaks this test first."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import pytest

PUBLIC: Final[dict[str, tuple[str, ...]]] = {
    "provider_trace_store": (
        "AdoptedTableError",
        "AsyncProviderTraceRepository",
        "BaseProviderTrace",
        "BulkResult",
        "InvalidArgumentError",
        "InvalidCursorError",
        "InvalidFilterError",
        "InvalidIdentifierError",
        "InvalidLimitError",
        "InvalidWriterOptionError",
        "MaintenanceError",
        "MetadataPage",
        "MigrationError",
        "MigrationLockError",
        "PackSupportMissingError",
        "PartitionMissingError",
        "PrivilegeMissingError",
        "PoolerSettingError",
        "ProviderTrace",
        "ProviderTraceConflictError",
        "ProviderTraceMetadata",
        "ProviderTraceMetadataRecord",
        "ProviderTraceRecord",
        "ProviderTraceRejectedError",
        "ProviderTraceRepository",
        "ProviderTraceStoreError",
        "ProviderTraceUnavailableError",
        "RejectedTrace",
        "StoreSettings",
        "TableMismatchError",
        "TableMissingError",
        "TableNotEmptyError",
        "TraceDecodingError",
        "TraceEncodingError",
        "TraceFilters",
        "TracePage",
        "TraceTooLargeError",
        "TraceWriter",
        "TransactionEndedError",
        "UnstorableTraceError",
        "WriterClosedError",
        "WriterStats",
        "__version__",
        "text_keys",
    ),
    "provider_trace_store.errors": (
        "AdoptedTableError",
        "InvalidArgumentError",
        "InvalidCursorError",
        "InvalidFilterError",
        "InvalidIdentifierError",
        "InvalidLimitError",
        "InvalidWriterOptionError",
        "MaintenanceError",
        "MigrationError",
        "MigrationLockError",
        "PackSupportMissingError",
        "PartitionMissingError",
        "PrivilegeMissingError",
        "PoolerSettingError",
        "ProviderTraceConflictError",
        "ProviderTraceRejectedError",
        "ProviderTraceStoreError",
        "ProviderTraceUnavailableError",
        "TableMismatchError",
        "TableMissingError",
        "TableNotEmptyError",
        "TraceDecodingError",
        "TraceEncodingError",
        "TraceTooLargeError",
        "TransactionEndedError",
        "UnstorableTraceError",
        "WriterClosedError",
    ),
    "provider_trace_store.migrations": (
        "DEFAULT_LOCK_TIMEOUT",
        "DEFAULT_TRIES",
        "VERSION_TABLE",
        "current",
        "downgrade",
        "include_name",
        "include_object",
        "schema_metadata",
        "scripts_config",
        "upgrade",
    ),
    "provider_trace_store.schemas": (
        "BaseProviderTrace",
        "JSON_FORM",
        "MetadataPage",
        "ProviderTrace",
        "ProviderTraceMetadata",
        "TracePage",
    ),
    "provider_trace_store.settings": ("StoreSettings",),
    "provider_trace_store.repository": ("ProviderTraceRepository",),
    "provider_trace_store.async_repository": ("AsyncProviderTraceRepository",),
    "provider_trace_store.writer": ("TraceWriter", "WriterStats"),
}


@pytest.mark.parametrize("place", PUBLIC)
def test_every_public_name_is_imported_from_its_place(place: str) -> None:
    package, module = import_module("provider_trace_store"), import_module(place)
    for name in PUBLIC[place]:
        found = getattr(module, name)
        assert found is getattr(package, name, found), name


def test_the_package_has_no_public_name_that_is_not_listed_here() -> None:
    # A place whose names are all public says so in `__all__`.
    for place in ("provider_trace_store", "provider_trace_store.migrations"):
        assert sorted(import_module(place).__all__) == sorted(PUBLIC[place])
