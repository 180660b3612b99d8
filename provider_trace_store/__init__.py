"""Stores every call of an LLM backend to a model provider, in full or as metadata."""

from provider_trace_store.async_repository import AsyncProviderTraceRepository
from provider_trace_store.codec import text_keys
from provider_trace_store.errors import (
    AdoptedTableError,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidIdentifierError,
    InvalidLimitError,
    InvalidWriterOptionError,
    MaintenanceError,
    MigrationError,
    MigrationLockError,
    PackSupportMissingError,
    PartitionMissingError,
    PoolerSettingError,
    PrivilegeMissingError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMismatchError,
    TableMissingError,
    TableNotEmptyError,
    TraceDecodingError,
    TraceEncodingError,
    TraceTooLargeError,
    TransactionEndedError,
    UnstorableTraceError,
    WriterClosedError,
)
from provider_trace_store.reads.filters import TraceFilters
from provider_trace_store.repository import ProviderTraceRepository
from provider_trace_store.schemas import (
    BaseProviderTrace,
    MetadataPage,
    ProviderTrace,
    ProviderTraceMetadata,
    TracePage,
)
from provider_trace_store.settings import StoreSettings
from provider_trace_store.tables.models import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.writer import TraceWriter, WriterStats
from provider_trace_store.writes.results import BulkResult, RejectedTrace

__version__ = "0.1.0"

__all__ = [
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
    "PoolerSettingError",
    "PrivilegeMissingError",
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
]
