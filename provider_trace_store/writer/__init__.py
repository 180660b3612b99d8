"""The background writer: a trace is taken in microseconds, stored by a thread, and kept in a spool meanwhile."""

from provider_trace_store.writer.options import WriterOptions
from provider_trace_store.writer.stats import WriterStats
from provider_trace_store.writer.trace_writer import TraceWriter

__all__ = ["TraceWriter", "WriterOptions", "WriterStats"]
