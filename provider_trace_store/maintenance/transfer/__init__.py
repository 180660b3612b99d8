"""Export of stored traces into a file, and import of such a file: every row with its documents' text byte for byte."""

from provider_trace_store.maintenance.transfer.exporting import ExportReport, export_traces
from provider_trace_store.maintenance.transfer.importing import ImportReport, import_traces

__all__ = ["ExportReport", "ImportReport", "export_traces", "import_traces"]
