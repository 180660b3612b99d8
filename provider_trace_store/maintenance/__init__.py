"""What operators run for long: packing, unpacking, erasing and checking packs, export and import."""

from provider_trace_store.maintenance.erasing import EraseReport, erase
from provider_trace_store.maintenance.packing import PackReport, Refusal, pack
from provider_trace_store.maintenance.retention import PruneReport, prune_packs
from provider_trace_store.maintenance.stored_packs import PackFailure
from provider_trace_store.maintenance.transfer import ExportReport, ImportReport, export_traces, import_traces
from provider_trace_store.maintenance.unpacking import UnpackReport, unpack
from provider_trace_store.maintenance.verifying import Finding, VerifyReport, verify_packs

__all__ = [
    "EraseReport",
    "ExportReport",
    "Finding",
    "ImportReport",
    "PackFailure",
    "PackReport",
    "PruneReport",
    "Refusal",
    "UnpackReport",
    "VerifyReport",
    "erase",
    "export_traces",
    "import_traces",
    "pack",
    "prune_packs",
    "unpack",
    "verify_packs",
]
