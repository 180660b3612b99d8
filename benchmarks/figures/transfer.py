"""Exports: rows per second of processor time, beside the raw driver that reads the same rows and compresses them."""

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any, Final

from sqlalchemy.orm import Session

from benchmarks.core.bench import Bench, Load
from benchmarks.core.results import BenchmarkError, Contenders, Figure, Sample, rate
from benchmarks.data import rows
from benchmarks.figures.repositories import expect
from provider_trace_store import ProviderTraceRepository
from provider_trace_store.maintenance import export_traces
from provider_trace_store.maintenance.transfer.sinks import LEVEL, WINDOW_LOG

_WHOLE: Final = Load(10_000, 100, 100)
_METADATA: Final = Load(5_000, 1_000, 40, metadata=True)
_FETCHED: Final = 200


def figures() -> list[Figure]:
    """Return the figures of exports."""
    title = "export to JSON lines, {}, of reading and zstd (CPU)"
    return [
        Figure("export-full", title.format("10 KB"), _prepare(_WHOLE), 0.6, 0.9),
        Figure("export-metadata", title.format("metadata"), _prepare(_METADATA), 0.6, 0.9),
    ]


def _prepare(load: Load) -> Callable[[Bench], Contenders]:
    def contenders(bench: Bench) -> Contenders:
        store, scaled = bench.postgres, load.scaled(bench.effort)
        store.empty()
        with Session(store.engine) as session:
            repository = ProviderTraceRepository(
                session, organization_id=rows.ORGANIZATION, metadata_only=scaled.metadata
            )
            results = [repository.create_many(batch) for batch in bench.traces(scaled)]
            expect(results, created=scaled.count)
            session.commit()
        store.execute("VACUUM ANALYZE")
        [[size]] = store.execute(
            f"SELECT sum({' + '.join(f'octet_length({name}::text)' for name in rows.BODIES)}) FROM {rows.FULL.table}"
        )

        def export(_: int) -> Sample:
            with tempfile.TemporaryDirectory() as folder:
                began = process_time()
                report = export_traces(store.engine, Path(folder) / "rows.jsonl.zst")
                seconds = process_time() - began
            if report.rows != scaled.count:
                raise BenchmarkError(f"{report.rows} rows, not {scaled.count}")
            return rate(seconds, scaled.count, size or 0)

        def raw(_: int) -> Sample:
            with tempfile.TemporaryFile() as file:
                began = process_time()
                found = _read_and_compress(store.connection, scaled.layout, file)
                seconds = process_time() - began
            if found != scaled.count:
                raise BenchmarkError(f"{found} rows, not {scaled.count}")
            return rate(seconds, scaled.count, size or 0)

        return {"export": export, "psycopg + zstd": raw}

    return contenders


def _read_and_compress(connection: Any, layout: rows.Layout, file: Any) -> int:
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(
        options={
            parameter.compression_level: LEVEL,
            parameter.checksum_flag: 1,
            parameter.window_log: WINDOW_LOG,
            parameter.enable_long_distance_matching: 1,
        }
    )
    count = 0
    with connection.cursor(name="export") as cursor:
        cursor.execute(f"SELECT {layout.selected(as_text=True)} FROM {layout.table} ORDER BY created_at, id")
        while batch := cursor.fetchmany(_FETCHED):
            lines = "\n".join(",".join(map(str, row)) for row in batch)
            file.write(compressor.compress(lines.encode()))
            count += len(batch)
    file.write(compressor.flush())
    connection.rollback()
    return count
