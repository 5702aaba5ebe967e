"""The views: each is one function of its inputs, and what both layers must know to keep its rows.

A view's rows are told apart by `keys`. Where its definition gives several rows for a key (the matches of a join, what keyed
state comes to on its way), the one of the highest `precedence` counts, in whatever order they come. A speed table is appended to, so
it holds all that its query has given for a key: of rows of one precedence that of the newest micro-batch counts. `place_of_row` is
that rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import (
    MONEY,
    ORDER_CANCELLED,
    ORDER_CREATED,
    ORDERS,
    PRODUCTS,
    TEXT_LINES,
    WIDE_MONEY,
)
from pipeline.transforms.joins import enriched_orders, order_outcomes, with_profit_margin
from pipeline.transforms.state import customer_totals
from pipeline.transforms.windows import customer_hourly_spend
from pipeline.transforms.words import word_counts

__all__ = [
    "BATCH_ID",
    "VIEWS",
    "Reading",
    "Source",
    "View",
    "best_of_each_key",
    "first_of_each_key",
    "is_settled",
    "labelled",
    "place_of_row",
    "same_time",
    "settled",
    "start_of_hour",
]

_DAY, _NOT_AT_ALL = timedelta(hours=24), timedelta(0)

BATCH_ID = "_batch_id"
"""The column of a speed table that no reader sees: which micro-batch has given the row; null is older than any."""

Source = Literal["feed", "kafka"]
"""What the query of a rebuild reads, for as long as it lives: a copy of the log that is its own (`feed`), or Kafka."""


@dataclass(frozen=True)
class Reading:
    """What one source of a view's query counts: the events of a kind, or of one event_type of it.

    `is_counted_once` where the definition takes one event of each identity (`counted_once`), else every copy.
    """

    kind: str
    event_type: str | None = None
    is_counted_once: bool = True


@dataclass(frozen=True)
class View:
    """`define` takes one DataFrame of events for each of `inputs`; `schema` is what its tables hold.

    `precedence` are the columns by which one of several rows of a key counts, the first of them first: the largest value, or with
    a minus before the name the smallest; null comes last.

    `reads` has an entry for each source of the streaming query, in Spark's order: by default one for each input.

    `complete` adds the columns that follow from the row of a key: it sees one row, where a definition may give several.

    The first of the `keys` is a column of the first input's events. `columns` are those a reader sees, by default all. `settles_by` is the column that a horizon cuts (None: the view has none), and
    `horizon` the latest time before which an event time completes its rows. `looks_back` is by how much an event that a row is
    made of can be older than what the horizon cuts it by (None: by any; a batch then makes all of its rows anew).

    `version` is the definition's. `rebuild` numbers what was made anew beside the tables that were there (0: made by nobody
    else), and `source` says what that one's query reads: None is whatever `speed.source` says (`versions`).
    """

    name: str
    version: int
    define: Callable[..., DataFrame]
    inputs: tuple[str, ...]
    output_mode: Literal["append", "update"]
    schema: T.StructType
    keys: tuple[str, ...]
    reads: tuple[Reading, ...] = ()
    columns: tuple[str, ...] = ()
    precedence: tuple[str, ...] = ()
    complete: Callable[[DataFrame], DataFrame] | None = None
    settles_by: str | None = None
    horizon: Callable[[datetime], datetime] | None = None
    looks_back: timedelta | None = None
    rebuild: int = 0
    source: Source | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", self.reads or tuple(map(Reading, self.inputs)))
        object.__setattr__(self, "columns", self.columns or tuple(self.schema.names))

    @property
    def speed_schema(self) -> T.StructType:
        """What its speed table holds."""
        return T.StructType([*self.schema, T.StructField(BATCH_ID, T.LongType())])

    @property
    def is_seeded(self) -> bool:
        """Whether a new query begins with the batch form: its rows add up all of time, so a horizon cuts events, not rows."""
        return self.horizon is not None and self.settles_by is None

    @property
    def label(self) -> str:
        """What tells its tables from those of the view's other versions."""
        return f"{self.version}r{self.rebuild}" if self.rebuild else f"{self.version}"

    @property
    def query(self) -> str:
        """The streaming query's versioned name, which its checkpoint and transactions carry."""
        return f"{self.name}_v{self.label}"


def labelled(view: View, label: str) -> View:
    """The view, of the version whose tables have this label."""
    version, _, rebuild = label.partition("r")
    return replace(view, version=int(version), rebuild=int(rebuild or 0))


def settled(rows: DataFrame, *, view: View, horizon: datetime) -> DataFrame:
    """The rows that the horizon has covered: a window's end at or before it, else the row's time before it."""
    return rows if view.settles_by is None else rows.where(is_settled(view, horizon))


def is_settled(view: View, horizon: datetime) -> str:
    """Of a row of a view that a horizon cuts, as SQL."""
    compared = "<=" if view.settles_by == "window_end" else "<"
    return f"{view.settles_by} {compared} TIMESTAMP '{horizon.isoformat(sep=' ')}'"


def best_of_each_key(rows: DataFrame, *, view: View) -> DataFrame:
    """The view's rows, of what its definition gives: of the rows of a key the one of the highest precedence, completed."""
    best = first_of_each_key(rows, view=view, precedence=view.precedence) if view.precedence else rows
    completed = best if view.complete is None else view.complete(best)
    return completed.select(*view.schema.names)


def first_of_each_key(rows: DataFrame, *, view: View, precedence: Sequence[str]) -> DataFrame:
    """Of the rows of a key the one that counts by `precedence`, as Spark finds it (`place_of_row`)."""
    return (
        rows.withColumn("_place", F.expr(place_of_row(view, precedence))).where("_place = 1").drop("_place")
    )


def place_of_row(view: View, precedence: Sequence[str], *, shows_ties: bool = False) -> str:
    """The place of a row among those of its key, 1 being the row that counts, as SQL of Spark and of DuckDB alike; rows of one
    precedence share theirs where it `shows_ties`.

    A filter on keys goes before it, in both.
    """
    order = [
        f"{name.removeprefix('-')} {'ASC' if name.startswith('-') else 'DESC'} NULLS LAST"
        for name in precedence
    ]
    place = "RANK" if shows_ties else "ROW_NUMBER"
    return f"{place}() OVER (PARTITION BY {', '.join(view.keys)} ORDER BY {', '.join(order)})"


def start_of_hour(time: datetime) -> datetime:
    """The horizon of a view of hourly windows."""
    return time.replace(minute=0, second=0, microsecond=0)


def same_time(time: datetime) -> datetime:
    """The horizon of a view whose rows have one time of their own."""
    return time


def _a_day_before(time: datetime) -> datetime:
    return max(time, datetime.min.replace(tzinfo=time.tzinfo) + _DAY) - _DAY


def _schema(**columns: T.DataType) -> T.StructType:
    return T.StructType([T.StructField(name, type_) for name, type_ in columns.items()])


_TIME, _TEXT, _LONG, _INT = T.TimestampType(), T.StringType(), T.LongType(), T.IntegerType()

_HOURLY_SPEND = _schema(
    customer_id=_TEXT,
    window_start=_TIME,
    window_end=_TIME,
    hourly_spend=WIDE_MONEY,
    order_count=_LONG,
    last_event_time=_TIME,
)
_ENRICHED_ORDERS = _schema(
    order_id=_TEXT,
    line=_INT,
    customer_id=_TEXT,
    event_time=_TIME,
    product_id=_TEXT,
    quantity=_INT,
    price=MONEY,
    name=_TEXT,
    product_category=_TEXT,
    cost=MONEY,
    profit_margin=T.DecimalType(18, 4),
    version_time=_TIME,
    version_partition=_INT,
    version_offset=_LONG,
)
_OUTCOMES = _schema(
    order_id=_TEXT,
    customer_id=_TEXT,
    total=MONEY,
    created_at=_TIME,
    cancelled_at=_TIME,
    seconds_to_cancel=_LONG,
)
_TOTALS = _schema(customer_id=_TEXT, order_count=_LONG, total_spend=WIDE_MONEY, last_event_time=_TIME)
_WORD_COUNTS = _schema(word=_TEXT, count=_LONG)

_CREATED = Reading(ORDERS, ORDER_CREATED)
_CANCELLED = Reading(ORDERS, ORDER_CANCELLED, is_counted_once=False)

VIEWS: Mapping[str, View] = {
    view.name: view
    for view in (
        View(
            name="customer_hourly_spend",
            version=1,
            define=customer_hourly_spend,
            inputs=(ORDERS,),
            reads=(_CREATED,),
            output_mode="update",
            schema=_HOURLY_SPEND,
            columns=tuple(_HOURLY_SPEND.names[:-1]),
            keys=("customer_id", "window_start"),
            settles_by="window_end",
            horizon=start_of_hour,
            looks_back=_NOT_AT_ALL,
        ),
        View(
            name="enriched_orders",
            version=1,
            define=enriched_orders,
            inputs=(ORDERS, PRODUCTS),
            reads=(_CREATED, Reading(PRODUCTS, is_counted_once=False)),
            output_mode="append",
            schema=_ENRICHED_ORDERS,
            columns=tuple(_ENRICHED_ORDERS.names[:-3]),
            keys=("order_id", "event_time", "line"),
            precedence=("version_time", "version_partition", "version_offset"),
            complete=with_profit_margin,
            settles_by="event_time",
            horizon=same_time,
            looks_back=_DAY,
        ),
        View(
            name="order_outcomes",
            version=1,
            define=order_outcomes,
            inputs=(ORDERS,),
            reads=(_CREATED, _CANCELLED),
            output_mode="append",
            schema=_OUTCOMES,
            keys=("order_id", "created_at"),
            precedence=("-cancelled_at",),
            settles_by="created_at",
            horizon=_a_day_before,
            looks_back=_NOT_AT_ALL,
        ),
        View(
            name="customer_totals",
            version=2,
            define=customer_totals,
            inputs=(ORDERS,),
            reads=(_CREATED,),
            output_mode="update",
            schema=_TOTALS,
            keys=("customer_id",),
            precedence=("order_count",),
            horizon=start_of_hour,
        ),
        View(
            name="word_counts",
            version=1,
            define=word_counts,
            inputs=(TEXT_LINES,),
            output_mode="update",
            schema=_WORD_COUNTS,
            keys=("word",),
        ),
    )
}
