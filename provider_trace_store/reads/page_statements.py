"""The statements that go through many traces: pages by position, and counts.

Which way a page takes is not left to statistics: a table that grows fast has none in time, a prepared statement's
generic plan does not look at them, and none knows that a tenant left last year. A page walks an index in its order,
from one bound on: that of `(organization_id, created_at, id)`, or of `(agent_id, created_at)` where an agent is asked
for. Three things keep the planner on it:

- The bound is a comparison of rows that begins with the index's first column, and the order begins with it, too.
  After an equality the planner knows that the order of dates is enough, and may walk any index by date, through the
  rows of all tenants; and from an equality and two dates it may conclude that hardly a row is left, and sort.
- The other end of the range is no condition but a sentinel: of what lies beyond it, any row will do, so that the
  page's limit ends the walk there. As a condition, PostgreSQL would go on to the tenant's last row.
- A page of a step or a run takes that key's index and sorts the rows that it finds: all else is written as
  expressions, which no index has.
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

from provider_trace_store.reads.statements import as_it_comes, stored_as
from provider_trace_store.tables import moments
from provider_trace_store.tables.kinds import FULL, KINDS, METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import ColumnElement, Select

    from provider_trace_store.tables.kinds import Kind

Order = Literal["newest", "oldest"]

DAY: Final = "day"

# Under short names: of statements beyond 4,096 characters psycopg does not keep the parsed form.
_TABLES: Final = {kind: kind.table.alias(kind.name[0]) for kind in KINDS}
_ORGANIZATION: Final = bindparam("organization_id", type_=String)
_AFTER_ID: Final = bindparam("after_id", type_=String)
# In the text of the statement: of a parameter the planner would assume a tenth of the table.
_ROWS: Final = bindparam("rows", type_=Integer, literal_execute=True)
# Few rows share a value of these.
_KEYS: Final = frozenset({"run_id", "step_id"})


class Shape(NamedTuple):
    """What decides a statement's text, apart from its parameters.

    Args:
        dialect: SQLAlchemy's name of the database.
        texts: the columns that must hold `:<column>`, sorted.
        needles: one of how many texts, `:needle_0` and so on, must occur in `agent_tags`.
        has_undated: whether rows without a date are meant, too, which only `provider_traces` of an adopted database
            may have.
    """

    dialect: str
    texts: tuple[str, ...] = ()
    needles: int = 0
    has_undated: bool = True

    @property
    def is_sqlite(self) -> bool:
        """Whether a moment is text, and functions have SQLite's names."""
        return self.dialect == "sqlite"

    @property
    def walked(self) -> str:
        """The first column of the index that a page walks, where it walks one."""
        return "agent_id" if "agent_id" in self.texts else "organization_id"

    @property
    def has_key(self) -> bool:
        """Whether an index of a column finds fewer rows than the tenant's."""
        return not _KEYS.isdisjoint(self.texts)


class PageShape(NamedTuple):
    """What decides the text of a page's statement.

    Args:
        where: which traces.
        columns: the attributes to select, `id` and `created_at` among them.
        order: which come first.
        is_next: whether the page goes on after the row `:after_id` of `:after_at`.
        is_next_undated: whether that row is at the place of those without a date.
        is_full_only: whether only `provider_traces` is read.
    """

    where: Shape
    columns: tuple[str, ...]
    order: Order
    is_next: bool
    is_next_undated: bool = False
    is_full_only: bool = False


@lru_cache(maxsize=256)
def page(shape: PageShape) -> Select[Any]:
    """Select the next `:rows` traces, and how each is `stored_as`; a trace in both tables comes twice, in a row.

    Each table gives as many as all may be, so that none is read further than a page. Dates and tags come as the
    driver has them: SQLAlchemy's conversion of a row takes longer than its reading.
    """
    part = _key_page if shape.where.has_key else _walk_page
    branches = [part(shape, kind) for kind in ([FULL] if shape.is_full_only else KINDS)]
    if shape.where.has_undated:
        branches.append(_undated_page(shape))
    # As subqueries, because SQLite takes no limit inside a UNION.
    whole = union_all(*branches).subquery("page")
    columns = (as_it_comes(whole.c[name]) for name in (*shape.columns, "stored_as"))
    # In the branches' own order, so that they are merged as they are walked.
    order = _directed(shape, whole.c.walked, whole.c.created_at, whole.c.id)
    return select(*columns).order_by(*order).limit(_ROWS)


@lru_cache(maxsize=64)
def counts(where: Shape, field: str) -> Select[Any]:
    """Select each `value` of a field, or `day`, and how many `traces` have it; a trace in both tables counts once.

    Where there are needles, each with each text of `tags`.
    """
    metadata, full = (_values(where, kind, field).where(*_is_between(where, kind)) for kind in (METADATA, FULL))
    branches = [metadata.where(_has_no_twin(where)), full]
    if where.has_undated:
        branches.append(_values(where, FULL, field, is_dated=False).where(_has_no_date()))
    whole = union_all(*branches).subquery("counted")
    return select(*whole.c, func.count().label("traces")).group_by(*whole.c)


def _walk_page(shape: PageShape, kind: Kind) -> Select[Any]:
    where = shape.where
    first, created_at, trace_id = _column(kind, where.walked), _column(kind, "created_at"), _column(kind, "id")
    its_value = bindparam(where.walked, type_=String)
    since, until = moments.parameter("since", where.dialect), moments.parameter("until", where.dialect)
    is_newest = shape.order == "newest"
    if shape.is_next:
        place = tuple_(first, created_at, trace_id)
        begin = _beyond(shape)(place, tuple_(its_value, moments.parameter("after_at", where.dialect), _AFTER_ID))
    elif is_newest:
        begin = tuple_(first, created_at) < tuple_(its_value, until)
    else:
        begin = tuple_(first, created_at) >= tuple_(its_value, since)
    # As an expression, or the planner gathers what is over by an index of dates.
    is_over = _unindexed(created_at) < since if is_newest else _unindexed(created_at) >= until
    is_of_first = first >= its_value if is_newest else first <= its_value
    is_meant = and_(_is_of_tenant_unindexed(kind), *_is_chosen(where, kind))
    statement = _page_of(shape, kind, created_at).where(begin, is_of_first, or_(is_meant, is_over))
    walk = statement.order_by(*_directed(shape, first, created_at, trace_id)).subquery("p")
    is_beyond_range = walk.c.created_at < since if is_newest else walk.c.created_at >= until
    # So said, it is taken to leave most rows, of which the page needs no more than a part: the tables are then merged
    # row by row. Otherwise all of it is read, from each.
    return select(walk).where(is_beyond_range.is_not(true()))


def _key_page(shape: PageShape, kind: Kind) -> Select[Any]:
    where = shape.where
    created_at, trace_id = _unindexed(_column(kind, "created_at")), _column(kind, "id")
    statement = _page_of(shape, kind, _column(kind, "created_at")).where(
        _is_of_tenant(where, kind), *_is_between(where, kind), *_is_chosen(where, kind)
    )
    if shape.is_next:
        after = tuple_(moments.parameter("after_at", where.dialect), _AFTER_ID)
        statement = statement.where(_beyond(shape)(tuple_(created_at, trace_id), after))
    return select(statement.order_by(*_directed(shape, created_at, trace_id)).subquery("p"))


def _undated_page(shape: PageShape) -> Select[Any]:
    where = shape.where
    kind = FULL
    no_date, trace_id = moments.no_date(where.dialect), _column(kind, "id")
    statement = _page_of(shape, kind, no_date).where(
        _is_of_tenant(where, kind), _has_no_date(), *_is_chosen(where, kind)
    )
    if shape.is_next_undated:
        statement = statement.where(_beyond(shape)(trace_id, _AFTER_ID))
    return select(statement.order_by(*_directed(shape, _column(kind, "created_at"), trace_id)).subquery("p"))


def _page_of(shape: PageShape, kind: Kind, created_at: ColumnElement[Any]) -> Select[Any]:
    columns = [(created_at if name == "created_at" else _column(kind, name)).label(name) for name in shape.columns]
    walked = _column(kind, shape.where.walked).label("walked")
    return select(*columns, stored_as(kind), walked).limit(_ROWS)


def _values(where: Shape, kind: Kind, field: str, *, is_dated: bool = True) -> Select[Any]:
    value = _column(kind, field) if field != DAY else _day(where, kind, is_dated=is_dated)
    columns = [value.label("value")]
    if where.needles:
        columns.append(cast(_column(kind, "agent_tags"), Text).label("tags"))
    return select(*columns).where(_is_of_tenant(where, kind), *_is_chosen(where, kind))


def _day(where: Shape, kind: Kind, *, is_dated: bool) -> ColumnElement[Any]:
    moment = _column(kind, "created_at") if is_dated else moments.no_date(where.dialect)
    return moments.day_of(moment, where.dialect)


def _is_chosen(where: Shape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    """Yield what does not depend on tenant and date."""
    yield _column(kind, "is_deleted") == false()
    for name in where.texts:
        yield _column(kind, name) == bindparam(name, type_=String)
    if where.needles:
        tags = cast(_column(kind, "agent_tags"), Text)
        find = func.instr if where.is_sqlite else func.strpos
        needles = (bindparam(f"needle_{number}", type_=Text) for number in range(where.needles))
        # As text: with a JSON function, one `\\u0000` in the tags of any row would fail the whole query.
        yield or_(*(find(tags, needle) > 0 for needle in needles))


def _is_of_tenant(where: Shape, kind: Kind) -> ColumnElement[bool]:
    return _is_of_tenant_unindexed(kind) if where.has_key else _column(kind, "organization_id") == _ORGANIZATION


def _is_of_tenant_unindexed(kind: Kind) -> ColumnElement[bool]:
    # Of such a condition the planner assumes that half of the rows meet it, not one in two hundred.
    return func.coalesce(_column(kind, "organization_id") == _ORGANIZATION, false())


def _is_between(where: Shape, kind: Kind) -> Iterator[ColumnElement[bool]]:
    created_at = _column(kind, "created_at")
    if where.has_key:
        created_at = _unindexed(created_at)
    yield created_at >= moments.parameter("since", where.dialect)
    yield created_at < moments.parameter("until", where.dialect)


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as an expression, which no index has, so that the choice is left to the others."""
    return func.coalesce(column, column)


def _has_no_date() -> ColumnElement[bool]:
    return _column(FULL, "created_at").is_(None)


def _has_no_twin(where: Shape) -> ColumnElement[bool]:
    full = partial(_column, FULL)
    metadata = partial(_column, METADATA)
    is_of_date = _unindexed(full("created_at")) == metadata("created_at")
    if where.has_undated:
        is_of_date |= and_(_has_no_date(), metadata("created_at") == moments.no_date(where.dialect))
    twin = select(literal(1)).where(
        full("id") == metadata("id"),
        _is_of_tenant_unindexed(FULL),
        full("is_deleted") == false(),
        is_of_date,
    )
    # With an offset, it stays a look at the primary key for each row; a join may read all of the other table.
    return ~twin.offset(literal_column("0")).correlate(_TABLES[METADATA]).exists()


def _column(kind: Kind, name: str) -> ColumnElement[Any]:
    return _TABLES[kind].c[kind.table_column(name)]


def _directed(shape: PageShape, *columns: ColumnElement[Any]) -> Iterator[ColumnElement[Any]]:
    for column in columns:
        yield column.desc() if shape.order == "newest" else column.asc()


def _beyond(shape: PageShape) -> Callable[[Any, Any], Any]:
    return lt if shape.order == "newest" else gt
