"""Hosts whose triggers and partitions refuse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.batches import run_script

if TYPE_CHECKING:
    from tests.support.servers import Database

# One code of each class of PostgreSQL's appendix A, and codes that a client could take for the server's state.
CODES: Final = (
    *("02000", "03000", "08000", "08006", "09000", "0A000", "0B000", "0F000", "0L000", "0P000", "0Z000", "20000"),
    *("21000", "22000", "23000", "23505", "23514", "24000", "25000", "25006", "25P02", "26000", "27000", "28000"),
    *("2B000", "2D000", "2F000", "2F005", "34000", "38000", "39000", "3B000", "3D000", "3F000", "40001", "40P01"),
    *("42000", "42501", "42703", "42883", "42P01", "42P05", "44000", "53000", "53100", "53200", "53300", "54000"),
    *("55000", "55P03", "57000", "57014", "57P01", "58000", "58030", "72000", "F0000", "HV000", "P0001", "P0004"),
    *("XX000", "XX001", "ABCDE"),
)


def trigger(action: str, table: str, condition: str = "new.call_type = 'poison'", when: str = "BEFORE") -> list[str]:
    """Return the statements that make a trigger, which does something for some rows, on PostgreSQL.

    Args:
        action: a statement of PL/pgSQL.
        table: the table.
        condition: which rows, as SQL.
        when: BEFORE or AFTER.
    """
    body = f"BEGIN IF {condition} THEN {action}; END IF; RETURN new; END"
    return [
        f"CREATE OR REPLACE FUNCTION hosts_check() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        f"CREATE OR REPLACE TRIGGER hosts_trigger {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION hosts_check()",
    ]


def partition_by_month(database: Database, *bounds: str) -> None:
    """Replace the metadata table by a partitioned one with one partition.

    Args:
        database: PostgreSQL.
        bounds: the first date of the partition, and the first date after it.
    """
    first, after = bounds
    run_script(
        database,
        "ALTER TABLE provider_trace_metadata RENAME TO old",
        "CREATE TABLE provider_trace_metadata (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (created_at, id)) "
        "PARTITION BY RANGE (created_at)",
        f"CREATE TABLE the_partition PARTITION OF provider_trace_metadata FOR VALUES FROM ('{first}') TO ('{after}')",
    )
