"""Faults of one trace: what the database, a rule of the host's or the trace itself has against it.

Each fault leaves every other trace alone. The bad trace is known by its `source`, which the rules of the host refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REFUSED: Final = "refused"
_WHEN: Final = f"NEW.source = '{REFUSED}'"

# One SQLSTATE of each class of PostgreSQL's appendix A, "Error Codes", several where the package tells them apart, and
# one of a class that nobody defined.
SQLSTATES: Final = (
    *("01000", "02000", "03000", "08000", "08006", "08P01", "09000", "0A000", "0B000", "0F001", "0L000", "0P000"),
    *("0Z002", "10608", "20000", "21000", "22000", "23000", "23502", "23503", "23505", "23514", "24000", "25006"),
    *("25P02", "25P03", "26000", "27000", "28000", "2B000", "2D000", "2F005", "34000", "38000", "39000", "3B001"),
    *("3D000", "3F000", "40001", "40P01", "42501", "42703", "42804", "42883", "42P01", "42P05", "44000", "53100"),
    *("53200", "53300", "53400", "54000", "55000", "55P03", "57014", "57P01", "57P03", "57P05", "58030", "72000"),
    *("F0000", "HV000", "P0001", "P0002", "XX000", "XX001", "ZZ999"),
)


def _no_rules(_: str) -> list[str]:
    return []


@dataclass(frozen=True)
class Fault:
    """A reason why one trace cannot be stored.

    Args:
        name: names the fault in the table.
        backends: the databases that have it.
        rules: the host's statements for a table.
        fields: the fields of the bad trace.
        only_full: whether only the table with bodies can have it.
        at_commit: whether it comes at the commit, or ends the transaction: only the writer has transactions of its own.
        is_unencodable: whether the trace has no stored form, so that not every field can be kept.
        earlier: the fields of a trace that is stored before, if there is one.
        same_id: whether that trace has the id of the bad one.
        sqlstate: the code that the error must tell; None if the fault has no code of its own.
    """

    name: str
    backends: tuple[str, ...] = ("postgresql", "sqlite")
    rules: Callable[[str], list[str]] = _no_rules
    fields: Mapping[str, Any] = field(default_factory=lambda: {"source": REFUSED})
    only_full: bool = False
    at_commit: bool = False
    is_unencodable: bool = False
    earlier: Mapping[str, Any] | None = None
    same_id: bool = False
    sqlstate: str | None = None


def _trigger(body: str, when: str = "BEFORE", kind: str = "TRIGGER") -> Callable[[str], list[str]]:
    """Return the rules that make a trigger of PostgreSQL run statements for the bad row."""
    tail = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW" if kind == "CONSTRAINT TRIGGER" else "FOR EACH ROW"
    return lambda table: [
        (
            f"CREATE FUNCTION hosts_{table}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$body$ BEGIN IF {_WHEN} THEN {body} END IF; RETURN NEW; END $body$"
        ),
        f"CREATE {kind} hosts_rule {when} INSERT ON {table} {tail} EXECUTE FUNCTION hosts_{table}()",
    ]


def _sqlite_trigger(action: str, when: str = "BEFORE") -> Callable[[str], list[str]]:
    return lambda table: [
        f"CREATE TRIGGER hosts_{table} {when} INSERT ON {table} WHEN {_WHEN} BEGIN {action}; END",
    ]


def _policy(using: str, check: str) -> Callable[[str], list[str]]:
    return lambda table: [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY hosts_rule ON {table} USING ({using}) WITH CHECK ({check})",
    ]


def _column(rule: str) -> Callable[[str], list[str]]:
    return lambda table: [f"ALTER TABLE {table} {rule}"]


def _referenced(deferred: str) -> Callable[[str], list[str]]:
    return lambda table: [
        f"CREATE TABLE hosts_sources_{table} (source text PRIMARY KEY)",
        f"INSERT INTO hosts_sources_{table} VALUES ('good')",  # noqa: S608  (our own names)
        f"ALTER TABLE {table} ADD FOREIGN KEY (source) REFERENCES hosts_sources_{table} {deferred}",
        f"GRANT SELECT ON hosts_sources_{table} TO PUBLIC",
    ]


def _nested(levels: int) -> Any:
    document: Any = "leaf"
    for _ in range(levels):
        document = [document]
    return document


def _of_itself() -> dict[str, Any]:
    document: dict[str, Any] = {}
    document["self"] = document
    return document


def _all() -> Iterator[Fault]:
    postgresql, sqlite = ("postgresql",), ("sqlite",)
    # The bad trace itself tells the trigger which error to raise, so that one database has them all.
    raises = "RAISE EXCEPTION 'no' USING ERRCODE = NEW.call_type;"
    for name, rules in (
        ("trigger before", _trigger(raises)),
        ("trigger after", _trigger(raises, "AFTER")),
        ("deferred trigger", _trigger(raises, "AFTER", "CONSTRAINT TRIGGER")),
    ):
        for state in SQLSTATES:
            bad = {"source": REFUSED, "call_type": state}
            yield Fault(f"{name} {state}", postgresql, rules, bad, at_commit=name[0] == "d", sqlstate=state)
    yield Fault("trigger skips", postgresql, _trigger("RETURN NULL;"))
    yield Fault("trigger divides by zero", postgresql, _trigger("PERFORM 1 / 0;"))
    yield Fault("trigger lacks its table", postgresql, _trigger("INSERT INTO hosts_audit VALUES (NEW.id);"))
    yield Fault("trigger lacks its function", postgresql, _trigger("PERFORM hosts_function(NEW.id);"))
    yield Fault("trigger lacks its column", postgresql, _trigger("NEW.hosts_column := 1;"))
    yield Fault("trigger lacks a grant", postgresql, _trigger("PERFORM 1 FROM pg_catalog.pg_authid;"))
    yield Fault("trigger names a constraint", postgresql, _trigger("RAISE unique_violation USING CONSTRAINT = 'c';"))
    yield Fault("policy", postgresql, _policy("true", f"source <> '{REFUSED}'"))
    hidden = _policy("source <> 'hidden'", "true")
    yield Fault("hidden duplicate", postgresql, hidden, only_full=True, earlier={"source": "hidden"}, same_id=True)
    yield Fault("foreign key", postgresql, _referenced(""))
    yield Fault("deferred foreign key", postgresql, _referenced("DEFERRABLE INITIALLY DEFERRED"), at_commit=True)
    yield Fault("check", postgresql, _column(f"ADD CHECK (source <> '{REFUSED}')"))
    yield Fault("type too short", postgresql, _column("ALTER COLUMN source TYPE varchar(4)"))
    yield Fault(
        "index entry too large",
        postgresql,
        lambda table: [f"CREATE INDEX ON {table} (source)"],
        {"source": "".join(f"{number:05}" for number in range(4000))},
    )
    for name in ("ABORT", "FAIL", "ROLLBACK"):
        rules = _sqlite_trigger(f"SELECT RAISE({name}, 'no')")
        yield Fault(f"trigger {name}", sqlite, rules, at_commit=name == "ROLLBACK")
        rules = _sqlite_trigger(f"SELECT RAISE({name}, 'no')", "AFTER")
        yield Fault(f"trigger after {name}", sqlite, rules, at_commit=name == "ROLLBACK")
    yield Fault("trigger IGNORE", sqlite, _sqlite_trigger("SELECT RAISE(IGNORE)"))
    yield Fault(
        "unique index",
        rules=lambda table: [f"CREATE UNIQUE INDEX hosts_{table} ON {table} (source) WHERE source = '{REFUSED}'"],
        earlier={"source": REFUSED},
    )
    yield Fault("conflict", only_full=True, earlier={"source": "earlier"}, same_id=True)
    yield Fault("object", fields={"request_json": {"a": object()}}, only_full=True, is_unencodable=True)
    yield Fault("set", fields={"response_json": {"a": {1, 2}}}, only_full=True, is_unencodable=True)
    yield Fault("cycle", fields={"request_json": _of_itself()}, only_full=True, is_unencodable=True)
    yield Fault("deep", fields={"request_json": {"a": _nested(100_000)}}, only_full=True, is_unencodable=True)
    yield Fault("too large", fields={"response_json": {"a": "x" * 200_000}}, only_full=True, is_unencodable=True)


FAULTS: Final = tuple(_all())
