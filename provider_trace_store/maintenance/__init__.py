"""What operators run for long: packing, unpacking, erasing and checking packs."""

from provider_trace_store.maintenance.erasing import EraseReport, erase
from provider_trace_store.maintenance.packing import PackReport, Refusal, pack
from provider_trace_store.maintenance.retention import PruneReport, prune_packs
from provider_trace_store.maintenance.stored_packs import PackFailure
from provider_trace_store.maintenance.unpacking import UnpackReport, unpack
from provider_trace_store.maintenance.verifying import Finding, VerifyReport, verify_packs

__all__ = [
    "EraseReport",
    "Finding",
    "PackFailure",
    "PackReport",
    "PruneReport",
    "Refusal",
    "UnpackReport",
    "VerifyReport",
    "erase",
    "pack",
    "prune_packs",
    "unpack",
    "verify_packs",
]
