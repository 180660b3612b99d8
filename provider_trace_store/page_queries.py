"""The statements that go through many traces: pages by position, and counts.

Which index a page takes is not left to statistics: a table that grows fast has none in time, and none knows that a
tenant left last year. It walks the index of `(organization_id, created_at, id)` between two bounds, written as
comparisons of rows and in the order of that index. With an equality instead, the planner may walk any index by date,
and read other tenants' rows on the way. A page of a step or a run takes that key's index and sorts the few rows that
it finds.
"""

from __future__ import annotations

from functools import lru_cache, partial, reduce
from operator import gt, lt, or_
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sqlalchemy import (
    Date,
    Integer,
    String,
    Text,
    bindparam,
    cast,
    exists,
    false,
    func,
    literal_column,
    select,
    tuple_,
    type_coerce,
    union_all,
)

from provider_trace_store.models import ProviderTraceMetadataRecord, ProviderTraceRecord, UtcDateTime
from provider_trace_store.queries import STORED_AS, as_it_comes, column_of, stored_as, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import BindParameter, ColumnElement, Select

    from provider_trace_store.queries import Record

Order = Literal["newest", "oldest"]

DAY: Final = "day"

# Under short names: of statements beyond 4,096 characters psycopg does not keep the parsed form.
_TABLES: Final = {record: table_of(record).alias(name[0]) for record, name in STORED_AS.items()}
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
    has_undated: bool = False

    @property
    def is_sqlite(self) -> bool:
        """Whether a moment is text, and functions have SQLite's names."""
        return self.dialect == "sqlite"

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
        is_full_only: whether only `provider_traces` is read.
    """

    where: Shape
    columns: tuple[str, ...]
    order: Order
    is_next: bool
    is_full_only: bool = False


@lru_cache(maxsize=256)
def page(shape: PageShape) -> Select[Any]:
    """Select the next `:rows` traces, and how each is `stored_as`; a trace in both tables comes twice, in a row.

    Each table gives as many as all may be, so that none is read further than a page. Dates and tags come as the
    driver has them: SQLAlchemy's conversion of a row takes longer than its reading.
    """
    branches = [_dated_page(shape, record) for record in list(STORED_AS)[shape.is_full_only :]]
    if shape.where.has_undated:
        branches.append(_undated_page(shape))
    # As subqueries, because SQLite takes no limit inside a UNION.
    whole = union_all(*(select(branch.subquery("part")) for branch in branches)).subquery("page")
    return select(*map(as_it_comes, whole.c)).order_by(*_directed(shape, whole.c.created_at, whole.c.id)).limit(_ROWS)


@lru_cache(maxsize=64)
def counts(where: Shape, field: str) -> Select[Any]:
    """Select each `value` of a field, or `day`, and how many `traces` have it; a trace in both tables counts once.

    Where there are needles, each with each text of `tags`.
    """
    branches = [_values(where, record, field).where(*_is_between(where, record)) for record in STORED_AS]
    branches[0] = branches[0].where(*_is_in_metadata_only(where))
    if where.has_undated:
        branches.append(_values(where, ProviderTraceRecord, field, is_dated=False).where(_has_no_date()))
    whole = union_all(*branches).subquery("counted")
    return select(*whole.c, func.count().label("traces")).group_by(*whole.c)


def _dated_page(shape: PageShape, record: Record) -> Select[Any]:
    where = shape.where
    organization = _column(record, "organization_id")
    place = (_column(record, "created_at"), _column(record, "id"))
    statement = _page_of(shape, record, place[0])
    beyond = _beyond(shape)
    if where.has_key:
        statement = statement.where(_is_of_tenant(where, record), *_is_between(where, record))
        if shape.is_next:
            statement = statement.where(beyond(tuple_(*place), tuple_(_moment(where, "after_at"), _AFTER_ID)))
        return statement.order_by(*_directed(shape, *place))
    # Together they leave this organization only: a lesser one is below the first, a greater one above the second.
    bounds = {
        gt: tuple_(organization, place[0]) >= tuple_(_ORGANIZATION, _moment(where, "since")),
        lt: tuple_(organization, place[0]) < tuple_(_ORGANIZATION, _moment(where, "until")),
    }
    if shape.is_next:
        bounds[beyond] = beyond(
            tuple_(organization, *place), tuple_(_ORGANIZATION, _moment(where, "after_at"), _AFTER_ID)
        )
    return statement.where(*bounds.values()).order_by(*_directed(shape, organization, *place))


def _undated_page(shape: PageShape) -> Select[Any]:
    record = ProviderTraceRecord
    no_date = _no_date(shape.where)
    place = (_column(record, "created_at"), _column(record, "id"))
    statement = _page_of(shape, record, no_date).where(_is_of_tenant(shape.where, record), _has_no_date())
    if shape.is_next:
        position = tuple_(_moment(shape.where, "after_at"), _AFTER_ID)
        statement = statement.where(_beyond(shape)(tuple_(no_date, place[1]), position))
    return statement.order_by(*_directed(shape, *place))


def _page_of(shape: PageShape, record: Record, created_at: ColumnElement[Any]) -> Select[Any]:
    columns = [(created_at if name == "created_at" else _column(record, name)).label(name) for name in shape.columns]
    return select(*columns, stored_as(STORED_AS[record])).where(*_is_chosen(shape.where, record)).limit(_ROWS)


def _values(where: Shape, record: Record, field: str, *, is_dated: bool = True) -> Select[Any]:
    value = _column(record, field) if field != DAY else _day(where, record, is_dated=is_dated)
    columns = [value.label("value")]
    if where.needles:
        columns.append(cast(_column(record, "agent_tags"), Text).label("tags"))
    return select(*columns).where(_is_of_tenant(where, record), *_is_chosen(where, record))


def _day(where: Shape, record: Record, *, is_dated: bool) -> ColumnElement[Any]:
    moment = _column(record, "created_at") if is_dated else _no_date(where)
    if where.is_sqlite:
        return type_coerce(func.date(moment), Date)
    return cast(func.timezone("UTC", moment), Date)


def _is_chosen(where: Shape, record: Record) -> Iterator[ColumnElement[bool]]:
    """Yield what does not depend on tenant and date."""
    yield _column(record, "is_deleted") == false()
    for name in where.texts:
        yield _column(record, name) == bindparam(name, type_=String)
    if where.needles:
        tags = cast(_column(record, "agent_tags"), Text)
        find = func.instr if where.is_sqlite else func.strpos
        needles = (bindparam(f"needle_{number}", type_=Text) for number in range(where.needles))
        # As text: with a JSON function, one `\\u0000` in the tags of any row would fail the whole query.
        yield reduce(or_, (find(tags, needle) > 0 for needle in needles))


def _is_of_tenant(where: Shape, record: Record) -> ColumnElement[bool]:
    organization = _column(record, "organization_id")
    # As an expression it is offered to no index, and leaves the choice to the key's.
    return (organization.concat(literal_column("''")) if where.has_key else organization) == _ORGANIZATION


def _is_between(where: Shape, record: Record) -> Iterator[ColumnElement[bool]]:
    yield _column(record, "created_at") >= _moment(where, "since")
    yield _column(record, "created_at") < _moment(where, "until")


def _has_no_date() -> ColumnElement[bool]:
    return _column(ProviderTraceRecord, "created_at").is_(None)


def _is_in_metadata_only(where: Shape) -> Iterator[ColumnElement[bool]]:
    full = partial(_column, ProviderTraceRecord)
    metadata = partial(_column, ProviderTraceMetadataRecord)
    is_same = (
        full("id") == metadata("id"),
        full("organization_id") == _ORGANIZATION,
        full("is_deleted") == false(),
    )
    same_date = full("created_at") == metadata("created_at")
    yield ~exists().where(*is_same, same_date, *_is_between(where, ProviderTraceRecord))
    if where.has_undated:
        yield ~exists().where(*is_same, _has_no_date(), metadata("created_at") == _no_date(where))


def _column(record: Record, name: str) -> ColumnElement[Any]:
    return _TABLES[record].c[str(column_of(record, name).key)]


def _directed(shape: PageShape, *columns: ColumnElement[Any]) -> Iterator[ColumnElement[Any]]:
    for column in columns:
        yield column.desc() if shape.order == "newest" else column.asc()


def _beyond(shape: PageShape) -> Callable[[Any, Any], Any]:
    return lt if shape.order == "newest" else gt


def _moment(where: Shape, name: str) -> BindParameter[Any]:
    return bindparam(name, type_=String() if where.is_sqlite else UtcDateTime())


def _no_date(where: Shape) -> ColumnElement[Any]:
    if where.is_sqlite:
        return literal_column("'1970-01-01 00:00:00.000000'", UtcDateTime)
    return literal_column("TIMESTAMPTZ '1970-01-01 00:00:00+00'", UtcDateTime)
