"""The operators' commands on a large table of traces with small bodies, while clients of an application write and read.

The table is one that a host created: it has its primary key and no other index, and the first command adopts it. For
each command: the longest write of a client while it ran, beside the longest one before it; the command's peak memory;
its rows a second, beside those of one plain statement; its seconds. A command that this version lacks is left out.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import URL, create_engine, make_url

from benchmarks.core import command, machine, server
from benchmarks.core.bench import Bench, Effort
from benchmarks.core.results import BenchmarkError
from benchmarks.data import rows as layouts
from benchmarks.scale import page, tables
from benchmarks.scale.clients import Clients
from provider_trace_store.migrations import VERSION_TABLE, upgrade

_FULL: Final = layouts.FULL.table
_METADATA: Final = layouts.METADATA.table
_BEGIN: Final = "<!-- The output of `make bench-operators`: begin -->"
_END: Final = "<!-- end -->"
_BATCH: Final = 250_000
# Rows of the plain statement that is compared with `backfill`: the whole table takes as long as the command.
_PLAIN_ROWS: Final = 1_000_000
# Milliseconds of the longest write, MB, seconds of `status`, rows a second of the plain statement: aim and least.
_STALL: Final = (50, 500)
_MEMORY: Final = (60, 150)
_STATUS: Final = (0.2, 1)
_NEEDS_THE_OPERATOR: Final = 3
_RULER: Final = ["---", *["---:"] * 9]


@dataclass(frozen=True)
class Step:
    """A command that is measured.

    Args:
        arguments: its arguments, with `{age}` and `{organization}`.
        counted: a query of the rows that the command adds to or takes away; None for a command without a rate.
        plain: a statement that does as much without the package, the prepared table for it, and the rate's limits.
    """

    arguments: str
    counted: str | None = None
    plain: tuple[str, str, tuple[float, float]] | None = None

    @property
    def name(self) -> str:
        """The command."""
        return self.arguments.split()[0]


STEPS: Final = (
    Step("migrate upgrade"),
    Step("index"),
    Step("status"),
    Step(
        "backfill",
        f"SELECT count(*) FROM {_METADATA}",
        (
            "INSERT INTO plain ({columns}) SELECT {columns} FROM "
            + _FULL
            + f" ORDER BY created_at LIMIT {_PLAIN_ROWS}",
            f"CREATE TABLE plain (LIKE {_METADATA} INCLUDING ALL)",
            (0.8, 0.5),
        ),
    ),
    Step(
        "prune --table full --older-than {age}",
        f"SELECT count(*) FROM {_FULL} WHERE created_at < '{{middle}}'",
        (f"DELETE FROM {_FULL} WHERE created_at >= '{{cut}}' AND created_at < '{{middle}}'", "", (0.7, 0.4)),
    ),
    Step(
        "erase --organization {organization} --yes",
        f"SELECT count(*) FROM {_FULL} WHERE organization_id = '{{organization}}'",
    ),
    Step(
        "pack --organization {other} --older-than 1d",
        f"SELECT count(*) FROM {_FULL} WHERE organization_id = '{{other}}'",
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; its status is 0, or 2 if something is missing. A `SHORT` verdict is not a failure."""
    description = "Commands for operators on a large table."
    parser = command.parser("benchmarks.scale.operators", description, chooses=False, repeats=False)
    parser.add_argument("--rows", type=int, help="rows of the table; default 10,000,000")
    parser.add_argument("--clients", type=int, default=16, help="clients that write and read; default 16")
    parser.add_argument("--only", action="append", metavar="COMMAND", help="only this command; repeatable")
    parser.add_argument(
        "--database",
        metavar="NAME",
        help="use this database of --url and keep it, so that further calls measure further commands; with --json, the"
        " figures of earlier calls are kept, too",
    )
    parser.add_argument("--docs", type=Path, metavar="DIR", help="folder of operations.md, whose table is replaced")
    options = parser.parse_args(arguments)
    rows = options.rows or (20_000 if options.quick else 10_000_000)
    with command.ending(), _database(options) as (url, way):
        document = _measured(options, url, way, rows)
    print(f"{document['environment']}\n\n{_table(document)}")
    command.save(document, options.json)
    if options.docs:
        _write(document, options.docs / "operations.md")
    return 0


def _database(options: argparse.Namespace) -> AbstractContextManager[tuple[URL, str]]:
    if not options.database:
        return server.database(options.url, {"max_connections": "200"})
    with psycopg.connect(_conninfo(make_url(options.url)), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [options.database]).fetchone():
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(options.database)))
    url = make_url(options.url).set(drivername="postgresql+psycopg", database=options.database)
    return nullcontext((url, "--url"))


def _measured(options: argparse.Namespace, url: URL, way: str, rows: int) -> dict[str, Any]:
    document: dict[str, Any] = {"rows": rows, "clients": options.clients, "steps": []}
    if options.database and options.json and options.json.exists():
        document = json.loads(options.json.read_text(encoding="utf-8"))
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        if not connection.execute("SELECT to_regclass(%s)", [_FULL]).fetchone()[0]:  # type: ignore[index]  # always a row
            document["fill_seconds"] = _fill(connection, url, rows)
        idle = 1.0 if options.quick else 15.0
        for step in STEPS:
            if (options.only and step.name not in options.only) or not _exists(step.name):
                continue
            found = _step(step, connection, url, idle, options.clients)
            document["steps"].append({"name": step.name, "table_rows": rows, **found})
    if not document["steps"]:
        return document | {"environment": ""}  # a call that only fills the table
    with Bench(url, Effort()) as bench:
        document["environment"] = page.environment_of(machine.describe(bench, way))
    return document


def _fill(connection: Any, url: URL, rows: int) -> float:
    """Create the table of a host with rows over 90 days, which end before now; return the seconds."""
    began = time.monotonic()
    engine = create_engine(url)
    with engine.connect() as other:
        upgrade(other, "0001")
    engine.dispose()
    connection.execute(f"DROP TABLE {VERSION_TABLE}")
    # Without our mark, the table is the host's.
    connection.execute(f"COMMENT ON CONSTRAINT {_FULL}_pkey ON {_FULL} IS NULL")
    for (name,) in connection.execute(
        f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{_FULL}'::regclass AND NOT indisprimary"
    ).fetchall():
        connection.execute(f"DROP INDEX {name}")

    def insert(first: int) -> None:
        columns, select = tables.small_traces(first, min(first + _BATCH, rows), rows)
        with psycopg.connect(_conninfo(url), autocommit=True) as each:
            each.execute(f"INSERT INTO {_FULL} ({columns}) {select}".encode())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(insert, range(0, rows, _BATCH)))
    connection.execute(f"VACUUM (ANALYZE) {_FULL}")
    connection.execute("CHECKPOINT")
    _tell(f"{rows:,} rows in {time.monotonic() - began:.0f} s")
    return time.monotonic() - began


def _step(step: Step, connection: Any, url: URL, idle: float, clients: int) -> dict[str, Any]:
    """Measure a command, and its plain statement, while clients write."""
    cut = tables.BEGIN + tables.PERIOD / 10
    hours = (datetime.now(UTC) - cut) // timedelta(hours=1)
    # Ages are in whole hours, counted from now.
    values = {
        "age": f"{hours}h",
        "cut": datetime.now(UTC) - timedelta(hours=hours),
        "middle": cut + tables.PERIOD / 10,
        "organization": tables.organization(20),
        "other": tables.organization(40),
        "columns": ", ".join(layouts.METADATA.names),
    }
    arguments = step.arguments.format(**values).split()
    count = _counting(connection, step, values)
    if step.plain and step.plain[1]:
        connection.execute(step.plain[1])
    found: dict[str, Any] = {"command": step.arguments.format(**values | {"organization": "…", "other": "…"})}
    is_migrated = connection.execute("SELECT to_regclass(%s)", [VERSION_TABLE]).fetchone()[0] is not None
    periods = {}
    with Clients(url.render_as_string(hide_password=False), clients, is_migrated) as running:
        time.sleep(1)  # for connections and caches
        began = time.monotonic()
        time.sleep(idle)
        periods["idle"] = (began, time.monotonic())
        before = count()
        began = time.monotonic()
        found["memory"] = _run(arguments, url)
        periods["stall"] = (began, time.monotonic())
        found["seconds"] = time.monotonic() - began
        if step.name == "status":
            # Without the start of Python and the imports.
            engine = create_engine(url)
            began = time.monotonic()
            importlib.import_module("provider_trace_store.maintenance").status(engine)
            found["in_process"] = time.monotonic() - began
            engine.dispose()
        if step.counted:
            changed = abs(count() - before)
            found |= {"rows": changed, "rate": changed / found["seconds"]}
        if step.plain:
            began = time.monotonic()
            done = connection.execute(step.plain[0].format(**values).encode()).rowcount
            periods["plain_stall"] = (began, time.monotonic())
            found |= {"plain_rate": done / (time.monotonic() - began), "limits": step.plain[2]}
    found |= {name: running.longest(*period) * 1e3 for name, period in periods.items()}
    if step.plain and step.plain[1]:
        connection.execute("DROP TABLE plain")
    _tell(f"{step.name}: {found['seconds']:.1f} s, longest write {found['stall']:.1f} ms")
    return found


def _counting(connection: Any, step: Step, values: dict[str, Any]) -> Callable[[], int]:
    """Return a function that counts the rows of a step's query; 0 without a query."""

    def count() -> int:
        if step.counted is None:
            return 0
        [found] = connection.execute(step.counted.format(**values).encode()).fetchone()
        return int(found)

    return count


def _exists(name: str) -> bool:
    asked = [sys.executable, "-m", "provider_trace_store", name, "--help"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def _run(arguments: list[str], url: URL) -> float:
    """Run a command to its end; return its peak memory in MB."""
    environment = os.environ | {"PROVIDER_TRACE_STORE_DATABASE_URL": url.render_as_string(hide_password=False)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "provider_trace_store", *arguments], env=environment, stdout=output, stderr=output
        )
        peak = 0.0
        # Linux tells the peak of a program only while it runs; that of a finished child includes its parent's.
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:
                status = ""
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak = int(found[1]) * 1024 / 1e6
            time.sleep(0.02)
        output.seek(0)
        said = output.read()
    if process.returncode not in {0, _NEEDS_THE_OPERATOR if arguments == ["status"] else 0}:
        raise BenchmarkError(f"{' '.join(arguments)}: status {process.returncode}: {said.strip()[-500:]}")
    return peak


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(document: dict[str, Any]) -> str:
    def row(found: dict[str, Any]) -> list[str]:
        caused = max(0.0, found["stall"] - found["idle"])
        memory = page.verdict_of(found["memory"], *_MEMORY)
        cells = [f"`{found['command']}`", f"{found['seconds']:.2f}"]
        cells += [f"{found['idle']:.1f}", f"{found['stall']:.1f}", page.verdict_of(caused, *_STALL)]
        cells += [f"{found['memory']:.0f}", memory]
        cells += [f"{found['rows']:,}", f"{found['rate']:,.0f}"] if "rate" in found else ["", ""]
        if "in_process" in found:
            inside = found["in_process"]
            return [*cells, f"{inside:.3f} s without the start of Python: {page.verdict_of(inside, *_STATUS)}"]
        if "plain_rate" not in found:
            return [*cells, ""]
        ratio = found["rate"] / found["plain_rate"]
        aim, least = found["limits"]
        return [*cells, f"{ratio:.2f} of {found['plain_rate']:,.0f}: {page.verdict_of(-ratio, -aim, -least)}"]

    head = ["command", "seconds", "longest write before, ms", "during, ms", "caused", "memory, MB", "", "rows"]
    head += ["rows/s", "rows/s of plain SQL, or seconds"]
    lines = [head, _RULER, *map(row, document["steps"])]
    return f"{document['rows']:,} rows, {document['clients']} clients.\n\n" + "\n".join(
        "| " + " | ".join(line) + " |" for line in lines
    )


def _write(document: dict[str, Any], path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    body = f"{document['environment']}\n\n{_table(document)}"
    path.write_text(f"{before}{_BEGIN}\n\n{body}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
