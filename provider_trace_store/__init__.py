"""Keeps every call an LLM backend makes to a model provider, in full or as metadata."""

from provider_trace_store.bulk import BulkResult, RejectedTrace
from provider_trace_store.errors import (
    InvalidIdentifierError,
    InvalidLimitError,
    MigrationError,
    MigrationLockError,
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
)
from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord
from provider_trace_store.repository import AsyncProviderTraceRepository, ProviderTraceRepository
from provider_trace_store.schemas import BaseProviderTrace, ProviderTrace, ProviderTraceMetadata
from provider_trace_store.settings import StoreSettings

__version__ = "0.1.0"

__all__ = [
    "AsyncProviderTraceRepository",
    "BaseProviderTrace",
    "BulkResult",
    "InvalidIdentifierError",
    "InvalidLimitError",
    "MigrationError",
    "MigrationLockError",
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
    "TraceTooLargeError",
    "__version__",
]
