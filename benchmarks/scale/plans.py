"""What the server does for a statement: nodes, buffers, sorts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from psycopg import sql
from psycopg.types.json import JsonLoader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

    from benchmarks.scale.timing import Statement

# A plan made for the parameters, or the one for any that a prepared statement may come to be executed by.
Mode = Literal["custom", "generic"]
MODES: Final[tuple[Mode, ...]] = ("custom", "generic")

_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s|%(%)")
_NAME: Final = "benchmark_plan"
_SCANS: Final = ("Seq Scan",)
_SORTS: Final = ("Sort", "Incremental Sort")


@dataclass(frozen=True)
class Plan:
    """What was seen of a statement's executions; of numbers the largest.

    Args:
        nodes: the types of the plans' nodes, with the index that each reads.
        buffers: pages read, from the server's cache or not.
        sorted_in: rows that a sort received.
        sorted_out: rows that a sort gave.
        sequential: whether a table was read as a whole.
    """

    nodes: tuple[str, ...]
    buffers: int
    sorted_in: int
    sorted_out: int
    sequential: bool


def explain(connection: psycopg.Connection, statements: Iterable[Statement], mode: Mode) -> Plan:
    """Execute statements, and say what the server did.

    Args:
        connection: in a transaction.
        statements: of one kind, with their parameters.
        mode: which plan is made.
    """
    seen: dict[str, None] = {}
    buffers, received, given = 0, 0, 0
    for statement in statements:
        top = _executed(connection, statement, mode)
        buffers = max(buffers, top["Shared Hit Blocks"] + top["Shared Read Blocks"])
        for node in _nodes(top):
            seen[_name(node)] = None
            if node["Node Type"] in _SORTS:
                received = max(received, *(_rows(child) for child in node["Plans"]))
                given = max(given, _rows(node))
    nodes = tuple(seen)
    return Plan(nodes, buffers, received, given, any(scan in node for scan in _SCANS for node in nodes))


def _executed(connection: psycopg.Connection, statement: Statement, mode: Mode) -> dict[str, Any]:
    text, parameters = statement
    names = list(dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(text) if match[1]))
    numbered = _PLACEHOLDER.sub(lambda match: f"${names.index(match[1]) + 1}" if match[1] else "%", text)
    connection.execute(f"SET LOCAL plan_cache_mode = force_{mode}_plan".encode())
    connection.execute(f"PREPARE {_NAME} AS {numbered}".encode())
    values = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in names)
    execute = sql.SQL("EXECUTE {} ({})" if names else "EXECUTE {}").format(sql.SQL(_NAME), values)
    query = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(execute)
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("json", JsonLoader)
        [[[found]]] = cursor.execute(query).fetchall()
    connection.execute(f"DEALLOCATE {_NAME}")
    plan: dict[str, Any] = found["Plan"]
    return plan


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _name(node: dict[str, Any]) -> str:
    kind = node["Node Type"]
    read = node.get("Index Name") or node.get("Relation Name")
    return f"{kind} ({read})" if read and kind != "Bitmap Heap Scan" else str(kind)


def _rows(node: dict[str, Any]) -> int:
    rows: float = node["Actual Rows"] * node["Actual Loops"]
    return round(rows)
