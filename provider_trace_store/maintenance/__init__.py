"""What operators run for long: packing, unpacking, erasing and checking packs."""

from provider_trace_store.maintenance.packing import PackReport, Refusal, pack

__all__ = ["PackReport", "Refusal", "pack"]
