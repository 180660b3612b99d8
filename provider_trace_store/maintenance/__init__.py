"""What operators run: status, indexes, packing, unpacking, erasing and checking packs, export and import."""

from provider_trace_store.maintenance.erasing import EraseReport, erase
from provider_trace_store.maintenance.erasing_selections import ErasureReport, erase_matching
from provider_trace_store.maintenance.indexing import IndexReport, build_indexes
from provider_trace_store.maintenance.overview import status
from provider_trace_store.maintenance.packing import PackReport, Refusal, pack
from provider_trace_store.maintenance.retention import PruneReport, prune_packs
from provider_trace_store.maintenance.status_report import (
    DateRange,
    IndexFinding,
    PackedShare,
    SpoolStatus,
    StatusReport,
    TableStatus,
)
from provider_trace_store.maintenance.stored_packs import PackFailure
from provider_trace_store.maintenance.transfer import ExportReport, ImportReport, export_traces, import_traces
from provider_trace_store.maintenance.unpacking import UnpackReport, unpack
from provider_trace_store.maintenance.verifying import Finding, VerifyReport, verify_packs

__all__ = [
    "DateRange",
    "EraseReport",
    "ErasureReport",
    "ExportReport",
    "Finding",
    "ImportReport",
    "IndexFinding",
    "IndexReport",
    "PackFailure",
    "PackReport",
    "PackedShare",
    "PruneReport",
    "Refusal",
    "SpoolStatus",
    "StatusReport",
    "TableStatus",
    "UnpackReport",
    "VerifyReport",
    "build_indexes",
    "erase",
    "erase_matching",
    "export_traces",
    "import_traces",
    "pack",
    "prune_packs",
    "status",
    "unpack",
    "verify_packs",
]
