"""What operators run: status, indexes, backfill, retention, packs, erasing, export and import."""

from provider_trace_store.maintenance.backfilling import BackfillReport, backfill
from provider_trace_store.maintenance.erasing import EraseReport, erase
from provider_trace_store.maintenance.erasing_selections import ErasureReport, erase_matching
from provider_trace_store.maintenance.indexing import IndexReport, build_indexes
from provider_trace_store.maintenance.overview import status
from provider_trace_store.maintenance.packing import PackReport, Refusal, pack
from provider_trace_store.maintenance.partitions import PrunedPartition
from provider_trace_store.maintenance.pruning import Prunable, PrunedTable, RetentionReport, prune
from provider_trace_store.maintenance.release_plan import ReleasedTable
from provider_trace_store.maintenance.releasing import ReleaseReport, release
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
    "BackfillReport",
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
    "Prunable",
    "PruneReport",
    "PrunedPartition",
    "PrunedTable",
    "Refusal",
    "ReleaseReport",
    "ReleasedTable",
    "RetentionReport",
    "SpoolStatus",
    "StatusReport",
    "TableStatus",
    "UnpackReport",
    "VerifyReport",
    "backfill",
    "build_indexes",
    "erase",
    "erase_matching",
    "export_traces",
    "import_traces",
    "pack",
    "prune",
    "prune_packs",
    "release",
    "status",
    "unpack",
    "verify_packs",
]
