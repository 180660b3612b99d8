"""The statements that read many traces: pages after a position, and counts.

PostgreSQL's statistics must not decide which index a page scans: a table that grows fast has no current statistics, the
generic plan of a prepared statement ignores them, and they do not tell that a tenant has written nothing for a year. A
page scans an index in the index's order, from one bound on, and stops after its limit. The index is the one of
`(organization_id, created_at, id)`, or the one of `(agent_id, created_at)` if the page is of one agent. Four rules
make the planner choose it:

- The bound is a comparison of rows, and both the comparison and ORDER BY start with the index's first column. With
  `organization_id = …` instead, the planner knows that ordering by date is enough. It may then scan any index by date,
  through the rows of all tenants. From an equality and two dates it may also conclude that hardly any row matches, and
  sort the rows.
- The other end of the range is a sentinel, not a condition: the statement accepts every row beyond that end, so that
  the LIMIT stops the scan there. The outer statement removes these rows. With a condition, PostgreSQL would read on up
  to the tenant's last row.
- Of a partitioned table, PostgreSQL reads only the partitions that plain conditions on the date leave. There the two
  ends of the range, and the date of the cursor, are conditions, too. They do not end a scan before its partition ends,
  which is no more than the tenant's rows of one partition.
- A page of a step or of a run scans the index of that column and sorts the rows that it finds. All other conditions
  are written as expressions that no index has.
"""

from __future__ import annotations

from functools import lru_cache, partial
from operator import gt, lt
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sqlalchemy import (
    Integer,
    String,
    Text,
    and_,
    bindparam,
    cast,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union_all,
)

from provider_trace_store.reads.statements import stored_as, unconverted
from provider_trace_store.tables import moments
from provider_trace_store.tables.kinds import FULL, KINDS, METADATA
from provider_trace_store.tables.moments import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import ColumnElement, Select

    from provider_trace_store.tables.kinds import Kind

Order = Literal["newest", "oldest"]
# The fields that `count_by` takes.
CountField = Literal["agent_id", "call_type", "org_id", "source", "user_id"]

DAY: Final = "day"

# Short aliases keep the statements short: psycopg caches the parsed form of up to 4,096 characters only.
_TABLES: Final = {kind: kind.table.alias(kind.name[0]) for kind in KINDS}
_ORGANIZATION: Final = bindparam("organization_id", type_=String)
_AFTER_ID: Final = bindparam("after_id", type_=String)
# A number in the statement's text: for a parameter the planner assumes a tenth of the table.
_ROWS: Final = bindparam("rows", type_=Integer, literal_execute=True)
# The range of a statement on a partitioned table, and the date of its cursor: values in the text, too. To make the
# generic plan of a prepared statement, PostgreSQL would lock each partition.
_FROM: Final = bindparam("from_literal", type_=UtcDateTime, literal_execute=True)
_TO: Final = bindparam("to_literal", type_=UtcDateTime, literal_execute=True)
_PASSED: Final = bindparam("passed_literal", type_=UtcDateTime, literal_execute=True)
# Columns of which few rows share a value; each has an index.
_KEYS: Final = frozenset({"run_id", "step_id"})


class Shape(NamedTuple):
    """The conditions of a statement, without the values that they compare with.

    Args:
        dialect: SQLAlchemy's name of the database.
        texts: the columns that must equal their parameter, which has the column's name; sorted.
        needles: the number of parameters `:needle_0`, `:needle_1` … of which one must occur in the text of
            `agent_tags`; 0 for no such condition.
        has_undated: whether rows without a date match, too; only `provider_traces` of an adopted database may have
            such rows.
        partitioned: the tables that are partitioned.
    """

    dialect: str
    texts: tuple[str, ...] = ()
    needles: int = 0
    has_undated: bool = True
    partitioned: tuple[Kind, ...] = ()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.dialect == "sqlite"

    @property
    def index_column(self) -> str:
        """The first column of the index that a page scans, unless `has_key`."""
        return "agent_id" if "agent_id" in self.texts else "organization_id"

    @property
    def has_key(self) -> bool:
        """Whether the statement is of one step or run, whose index finds fewer rows than the tenant's."""
        return not _KEYS.isdisjoint(self.texts)


class PageShape(NamedTuple):
    """The arguments of `page`: they decide the text of the statement.

    Args:
        where: the conditions.
        columns: the fields to select; `id` and `created_at` are among them.
        order: whether the newest or the oldest traces come first.
        is_whole: whether only whole traces are read: the full ones and the packed ones.
        has_cursor: whether the page starts after the row with the date `:after_at` and the id `:after_id`.
        has_undated_cursor: whether that row is sorted among the rows without a date.
        has_text_moments: whether `updated_at` comes as text in the form of ISO 8601: PostgreSQL has dates that Python
            has not, and a driver fails for the whole result if it must return one.
    """

    where: Shape
    columns: tuple[str, ...]
    order: Order
    is_whole: bool = False
    has_cursor: bool = False
    has_undated_cursor: bool = False
    has_text_moments: bool = False


@lru_cache(maxsize=256)
def page(shape: PageShape) -> Select[Any]:
    """Return the statement that selects the next `:rows` rows, each with `stored_as`.

    A trace that is in both tables comes as two rows, one after the other. Each table is read for `:rows` rows at
    most. Dates and documents come as the driver returns them: SQLAlchemy would take longer to convert a row than the
    database takes to read it.
    """
    part = _sorted_page if shape.where.has_key else _scanned_page
    branches = [part(shape, kind) for kind in KINDS]
    if shape.where.has_undated:
        branches.append(_undated_page(shape))
    # Each branch is a subquery: SQLite allows no LIMIT inside of a UNION.
    whole = union_all(*branches).subquery("page")
    columns = [unconverted(whole.c[name], shape.where.dialect) for name in (*shape.columns, "stored_as")]
    if shape.has_text_moments:
        place = shape.columns.index("updated_at")
        columns[place] = func.to_json(whole.c.updated_at).op("#>>")(literal_column("'{}'"))
    # The order of the branches: PostgreSQL merges their scans and sorts nothing.
    order = _ordered(shape, whole.c.walked, whole.c.created_at, whole.c.id)
    return select(*columns).order_by(*order).limit(_ROWS)


@lru_cache(maxsize=64)
def counts(where: Shape, field: str) -> Select[Any]:
    """Return the statement that selects each `value` of a field and the number of `traces` that have it.

    A trace that is in both tables counts once. If `where` has needles, the rows are grouped by the text of the agent's
    tags, too, which is selected as `tags`: the caller looks for the tag in it.

    Args:
        where: the conditions.
        field: the field; DAY for the day of `created_at`, in UTC.
    """
    metadata, full = (
        _values(where, kind, field).where(*_is_between(where, kind), *_leaves_partitions(where, kind))
        for kind in (METADATA, FULL)
    )
    branches = [metadata.where(_has_no_twin(where)), full]
    if where.has_undated:
        branches.append(_values(where, FULL, field, is_dated=False).where(_has_no_date()))
    whole = union_all(*branches).subquery("counted")
    return select(*whole.c, func.count().label("traces")).group_by(*whole.c)


def _scanned_page(shape: PageShape, kind: Kind) -> Select[Any]:
    """Return the page of one table that the database reads in the order of an index."""
    where = shape.where
    first, created_at, trace_id = _column(kind, where.index_column), _column(kind, "created_at"), _column(kind, "id")
    value = bindparam(where.index_column, type_=String)
    since, until = moments.parameter("since", where.dialect), moments.parameter("until", where.dialect)
    is_newest = shape.order == "newest"
    if shape.has_cursor:
        place = tuple_(first, created_at, trace_id)
        begin = _after(shape)(place, tuple_(value, moments.parameter("after_at", where.dialect), _AFTER_ID))
    elif is_newest:
        begin = tuple_(first, created_at) < tuple_(value, until)
    else:
        begin = tuple_(first, created_at) >= tuple_(value, since)
    # An expression: for a plain comparison the planner would collect the sentinels from an index by date.
    is_sentinel = _unindexed(created_at) < since if is_newest else _unindexed(created_at) >= until
    is_in_index_range = first >= value if is_newest else first <= value
    matches = and_(_is_of_tenant_unindexed(kind), *_meets_filters(where, kind))
    statement = _page_of(shape, kind, created_at).where(
        begin, is_in_index_range, or_(matches, is_sentinel), *_leaves_partitions_of_page(shape, kind)
    )
    scan = statement.order_by(*_ordered(shape, first, created_at, trace_id)).subquery("p")
    is_beyond_range = scan.c.created_at < since if is_newest else scan.c.created_at >= until
    # PostgreSQL estimates that `IS NOT TRUE` keeps most rows, so with the LIMIT it merges the two index scans; with a
    # plain comparison it reads both in full.
    return select(scan).where(is_beyond_range.is_not(true()))


def _sorted_page(shape: PageShape, kind: Kind) -> Select[Any]:
    """Return the page of one table that the database sorts, from the rows of a step or a run."""
    where = shape.where
    created_at, trace_id = _unindexed(_column(kind, "created_at")), _column(kind, "id")
    statement = _page_of(shape, kind, _column(kind, "created_at")).where(
        _is_of_tenant(where, kind),
        *_is_between(where, kind),
        *_meets_filters(where, kind),
        *_leaves_partitions_of_page(shape, kind),
    )
    if shape.has_cursor:
        after = tuple_(moments.parameter("after_at", where.dialect), _AFTER_ID)
        statement = statement.where(_after(shape)(tuple_(created_at, trace_id), after))
    return select(statement.order_by(*_ordered(shape, created_at, trace_id)).subquery("p"))


def _undated_page(shape: PageShape) -> Select[Any]:
    """Return the page of the rows without a date."""
    where = shape.where
    kind = FULL
    no_date, trace_id = moments.no_date(where.dialect), _column(kind, "id")
    statement = _page_of(shape, kind, no_date).where(
        _is_of_tenant(where, kind), _has_no_date(), *_meets_filters(where, kind)
    )
    if shape.has_undated_cursor:
        statement = statement.where(_after(shape)(trace_id, _AFTER_ID))
    return select(statement.order_by(*_ordered(shape, _column(kind, "created_at"), trace_id)).subquery("p"))


def _page_of(shape: PageShape, kind: Kind, created_at: ColumnElement[Any]) -> Select[Any]:
    columns = [(created_at if name == "created_at" else _column(kind, name)).label(name) for name in shape.columns]
    walked = _column(kind, shape.where.index_column).label("walked")
    pack_id = _TABLES[kind].c.get("pack_id")
    statement = select(*columns, stored_as(kind, pack_id), walked).limit(_ROWS)
    return statement.where(pack_id.is_not(None)) if shape.is_whole and pack_id is not None else statement


def _values(where: Shape, kind: Kind, field: str, *, is_dated: bool = True) -> Select[Any]:
    value = _column(kind, field) if field != DAY else _day(where, kind, is_dated=is_dated)
    columns = [value.label("value")]
    if where.needles:
        columns.append(cast(_column(kind, "agent_tags"), Text).label("tags"))
    return select(*columns).where(_is_of_tenant(where, kind), *_meets_filters(where, kind))


def _day(where: Shape, kind: Kind, *, is_dated: bool) -> ColumnElement[Any]:
    moment = _column(kind, "created_at") if is_dated else moments.no_date(where.dialect)
    return moments.day_of(moment, where.dialect)


def _meets_filters(where: Shape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions other than tenant and date."""
    yield _column(kind, "is_deleted") == false()
    for name in where.texts:
        yield _column(kind, name) == bindparam(name, type_=String)
    if where.needles:
        tags = cast(_column(kind, "agent_tags"), Text)
        find = func.instr if where.is_sqlite else func.strpos
        needles = (bindparam(f"needle_{number}", type_=Text) for number in range(where.needles))
        # A search in the text: a JSON function fails the whole query if the tags of any row hold a `\\u0000`.
        yield or_(*(find(tags, needle) > 0 for needle in needles))


def _is_of_tenant(where: Shape, kind: Kind) -> ColumnElement[bool]:
    return _is_of_tenant_unindexed(kind) if where.has_key else _column(kind, "organization_id") == _ORGANIZATION


def _is_of_tenant_unindexed(kind: Kind) -> ColumnElement[bool]:
    # The planner assumes that half of the rows meet such an expression; for a plain equality, one row in 200.
    return func.coalesce(_column(kind, "organization_id") == _ORGANIZATION, false())


def _is_between(where: Shape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    created_at = _column(kind, "created_at")
    if where.has_key:
        created_at = _unindexed(created_at)
    yield created_at >= moments.parameter("since", where.dialect)
    yield created_at < moments.parameter("until", where.dialect)


def _leaves_partitions_of_page(shape: PageShape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    yield from _leaves_partitions(shape.where, kind)
    if shape.has_cursor and kind in shape.where.partitioned:
        created_at = _column(kind, "created_at")
        yield created_at <= _PASSED if shape.order == "newest" else created_at >= _PASSED


def _leaves_partitions(where: Shape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that exclude partitions, and no row that the other conditions leave, for a partitioned table."""
    if kind in where.partitioned:
        yield _column(kind, "created_at") >= _FROM
        yield _column(kind, "created_at") < _TO


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as an expression that no index has, so that the planner uses another column's index."""
    return func.coalesce(column, column)


def _has_no_date() -> ColumnElement[bool]:
    return _column(FULL, "created_at").is_(None)


def _has_no_twin(where: Shape) -> ColumnElement[bool]:
    """Return the condition that the trace of a row of metadata is not in the full table, too."""
    full = partial(_column, FULL)
    metadata = partial(_column, METADATA)
    has_same_date = _unindexed(full("created_at")) == metadata("created_at")
    if where.has_undated:
        has_same_date |= and_(_has_no_date(), metadata("created_at") == moments.no_date(where.dialect))
    twin = select(literal(1)).where(
        full("id") == metadata("id"),
        _is_of_tenant_unindexed(FULL),
        full("is_deleted") == false(),
        has_same_date,
    )
    # OFFSET keeps PostgreSQL from making a join of it, which may read the whole other table: each row is looked up by
    # the primary key.
    return ~twin.offset(literal_column("0")).correlate(_TABLES[METADATA]).exists()


def _column(kind: Kind, name: str) -> ColumnElement[Any]:
    return _TABLES[kind].c[kind.table_column(name)]


def _ordered(shape: PageShape, *columns: ColumnElement[Any]) -> Iterator[ColumnElement[Any]]:
    for column in columns:
        yield column.desc() if shape.order == "newest" else column.asc()


def _after(shape: PageShape) -> Callable[[Any, Any], Any]:
    return lt if shape.order == "newest" else gt
