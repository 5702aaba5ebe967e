"""`late_events`: which events a speed query did not count because they came behind its watermark.

Nothing is estimated: the ledger says behind which watermark each offset was read, the log says what the event was, and
an event at or before that watermark was dropped by the query's first stateful step. (Spark 4.2: a step drops rows by the
watermark of the batch before, which is what the ledger keeps. `numRowsDroppedByWatermark` counts after a partial
aggregation and is no number of events.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import ledger
from pipeline.contracts import TEXT_LINES
from pipeline.delta_log import commit, newest_version
from pipeline.instants import in_utc
from pipeline.kinds import Kind
from pipeline.sinks import append_with, commit_lock, create_table
from pipeline.tables import LATE_EVENTS, SCHEMAS, table_path
from pipeline.views import View

__all__ = [
    "CLASS_SECONDS",
    "Counted",
    "Lateness",
    "Scope",
    "class_name",
    "enter",
    "heal",
    "identified",
    "is_in_time",
    "is_wanted",
    "lateness",
    "readings",
    "recorded",
]

_ADDRESS = ("topic", "partition", "offset")
_IDENTITY = ("query", "key", "event_time")
_ABOUT = ("query", "wanted_type", "counts_from", "generation", "batch_id", "watermark")
_CLASS_NAMES = {
    0: "under 1 minute",
    60: "1 to 10 minutes",
    600: "10 to 60 minutes",
    3_600: "1 to 6 hours",
    21_600: "6 to 24 hours",
    86_400: "24 hours and more",
}
"""The classes of the histogram by the seconds at which they begin."""
CLASS_SECONDS = tuple(_CLASS_NAMES)


@dataclass(frozen=True)
class Scope:
    """A query whose events are judged: its generation, up to which batch, and the instant it counts from (None: all)."""

    view: View
    generation: str
    judged: int
    counts_from: datetime | None


@dataclass(frozen=True)
class Counted:
    """What a published batch form counts: the events before its horizon that `log` held; None: all that is known by now."""

    horizon: datetime
    published_at: datetime
    log: Sequence[DataFrame] | None


@dataclass(frozen=True)
class Lateness:
    """Late events of one query: how many, how many of them no batch run has counted, their lateness by class, the worst."""

    view: str
    events: int
    not_healed: int
    histogram: Mapping[int, int]
    worst: Sequence[Mapping[str, Any]]


def is_in_time() -> Column:
    """Of an event beside the watermark it was read behind (null: there was none yet)."""
    return F.col("watermark").isNull() | (F.col("event_time") > F.col("watermark"))


def identified(events: DataFrame, kind: Kind) -> DataFrame:
    """One row per event: event_type (null where its kind has none), key (its identity without the time), event_time, met_by, its address.

    Every line of text is an event of its own, without a time.
    """
    event_type, time = F.lit(None).cast("string"), F.col("event_time")
    if kind.is_text:
        key, time = F.concat_ws(":", *_ADDRESS), F.lit(None).cast("timestamp")
    elif kind.by_type:
        key, event_type = F.concat_ws("|", "event_type", kind.key), F.col("event_type")
    else:
        key = F.col(kind.key)
    return events.select(
        event_type.alias("event_type"), key.alias("key"), time.alias("event_time"), "met_by", *_ADDRESS
    )


def readings(spark: SparkSession, entries: DataFrame, scopes: Sequence[Scope]) -> DataFrame:
    """The ledger's entries of these scopes, each with what that source counts: query, wanted_type, counts_from, kind, generation."""
    schema = T.StructType(
        [
            T.StructField("reader", T.StringType()),
            T.StructField("source", T.IntegerType()),
            T.StructField("view", T.StringType()),
            T.StructField("kind", T.StringType()),
            T.StructField("wanted_type", T.StringType()),
            T.StructField("counts_from", T.TimestampType()),
        ]
    )
    rows = [
        (scope.view.query, source, scope.view.name, reading.kind, reading.event_type, scope.counts_from)
        for scope in scopes
        for source, reading in enumerate(scope.view.reads)
    ]
    readers = F.broadcast(spark.createDataFrame(rows, schema))
    judged = ledger.within(entries, {scope.view.query: scope.judged for scope in scopes})
    is_reader = (F.col("query") == F.col("reader")) & (judged["source"] == readers["source"])
    return judged.join(readers, on=is_reader).select(
        F.col("view").alias("query"),
        judged["source"],
        "kind",
        "wanted_type",
        "counts_from",
        "generation",
        "batch_id",
        "watermark",
        "topic",
        "partition",
        "first_offset",
        "end_offset",
    )


def is_wanted() -> Column:
    """Of an event beside what `readings` says of a source that has read it."""
    is_of_type = F.col("wanted_type").isNull() | (F.col("event_type") == F.col("wanted_type"))
    is_of_time = F.col("counts_from").isNull() | (F.col("event_time") >= F.col("counts_from"))
    is_met = F.col("met_by").isNull() | F.array_contains("met_by", F.col("query"))
    return is_of_type & is_of_time & is_met


def enter(
    spark: SparkSession,
    root: str,
    *,
    events: DataFrame,
    entries: DataFrame,
    scopes: Sequence[Scope],
    counted: Mapping[str, Counted],
    basis: Mapping[str, Any],
) -> None:
    """Enter the late events of these scopes that `late_events` does not have yet, healed where a batch form counts them.

    `events` (as `identified`) are what a query could have read of the log; `counted` the published batch forms by view. What
    a query of an older generation was late for is removed: its successor began anew. `basis` says from what all this
    follows: the commit keeps it, and as long as that is the table's newest, there is nothing to look for.
    """
    path = table_path(root, LATE_EVENTS)
    create_table(spark, path, SCHEMAS[LATE_EVENTS])
    with commit_lock(path):
        if _newest_basis(spark, path) == basis:
            return
        _forget_older_generations(spark, path, scopes)
        clocked = [scope for scope in scopes if any(one.kind != TEXT_LINES for one in scope.view.reads)]
        read = readings(spark, entries, clocked)
        with _kept(_late_copies(events, read)) as copies:
            if copies.isEmpty():
                append_with(spark.createDataFrame([], SCHEMAS[LATE_EVENTS]), path, metadata=basis)
                return
            known = spark.read.format("delta").load(path).select(*_IDENTITY)
            missed = _missed(copies, events, read).join(known, on=[*_IDENTITY], how="left_anti")
            with _kept(missed) as new:
                rows = _with_healed(new, counted).select(*SCHEMAS[LATE_EVENTS].names)
                append_with(rows.coalesce(1), path, metadata=basis)


@contextmanager
def _kept(rows: DataFrame) -> Iterator[DataFrame]:
    """Computed once for all that is asked inside the block."""
    try:
        yield rows.persist()
    finally:
        rows.unpersist()


def _newest_basis(spark: SparkSession, path: str) -> Mapping[str, Any] | None:
    """What the newest commit was entered from; None where it was another kind of commit."""
    version = newest_version(spark, path)
    newest = commit(spark, path, version) if version else None
    return newest.metadata if newest else None


def heal(spark: SparkSession, root: str, *, counted: Mapping[str, Counted]) -> None:
    """Note in `late_events` when a batch run has counted what was not healed yet; no commit where there is nothing to note."""
    path = table_path(root, LATE_EVENTS)
    if not newest_version(spark, path):
        return
    with commit_lock(path):
        stored = spark.read.format("delta").load(path)
        is_candidate = F.lit(False)
        for view, form in counted.items():
            is_candidate = is_candidate | ((F.col("query") == view) & (F.col("event_time") < form.horizon))
        open_events = stored.where(F.col("healed_at").isNull() & is_candidate)
        if open_events.isEmpty():
            return
        with _kept(_with_healed(open_events, counted).where(F.col("healed_at").isNotNull())) as healed:
            if healed.isEmpty():
                return
            is_same = " AND ".join(f"stored.`{name}` = healed.`{name}`" for name in _IDENTITY)
            DeltaTable.forPath(spark, path).alias("stored").merge(
                healed.alias("healed"), is_same
            ).whenMatchedUpdate(set={"healed_at": F.col("healed.healed_at")}).execute()


def recorded(spark: SparkSession, root: str, view: str | None = None) -> DataFrame:
    """The late events (LATE_EVENTS) of one view or of all; none where nothing has been recorded."""
    path = table_path(root, LATE_EVENTS)
    if newest_version(spark, path) is None:
        return spark.createDataFrame([], SCHEMAS[LATE_EVENTS])
    rows = spark.read.format("delta").load(path)
    return rows if view is None else rows.where(F.col("query") == view)


def lateness(spark: SparkSession, root: str, views: Sequence[str], *, worst: int = 5) -> list[Lateness]:
    """How late the events of each view came, and what no batch run has counted yet; `worst` names that many of each."""
    late_events = recorded(spark, root).where(F.col("query").isin(*views))
    in_class = [
        F.count_if((F.col("lateness_seconds") >= low) & _is_below(high)).alias(f"from_{low}")
        for low, high in zip(CLASS_SECONDS, (*CLASS_SECONDS[1:], None), strict=True)
    ]
    as_row = F.struct("lateness_seconds", "key", "event_time", "watermark", *_ADDRESS, "healed_at")
    rows = {
        row["query"]: row
        for row in late_events.groupBy("query")
        .agg(
            F.count(F.lit(1)).alias("events"),
            F.count_if(F.col("healed_at").isNull()).alias("not_healed"),
            *in_class,
        )
        .collect()
    }
    ranked: dict[str, list[Mapping[str, Any]]] = {view: [] for view in views}
    for view in rows:
        of_view = late_events.where(F.col("query") == view).orderBy(F.desc("lateness_seconds"), *_ADDRESS)
        ranked[view] = [
            _in_utc(row["row"].asDict()) for row in of_view.select(as_row.alias("row")).limit(worst).collect()
        ]
    return [
        Lateness(
            view=view,
            events=rows[view]["events"] if view in rows else 0,
            not_healed=rows[view]["not_healed"] if view in rows else 0,
            histogram={low: rows[view][f"from_{low}"] if view in rows else 0 for low in CLASS_SECONDS},
            worst=ranked[view],
        )
        for view in views
    ]


def class_name(low: int) -> str:
    """The class of the histogram that begins at so many seconds behind the watermark."""
    return _CLASS_NAMES[low]


def _is_below(high: int | None) -> Column:
    return F.lit(True) if high is None else F.col("lateness_seconds") < high


def _in_utc(row: dict[str, Any]) -> dict[str, Any]:
    return {name: in_utc(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _late_copies(told: DataFrame, read: DataFrame) -> DataFrame:
    """The copies of events that a query read behind its watermark, beside what `readings` says of the batch that read them."""
    return ledger.with_batch(told, read, columns=_ABOUT).where(is_wanted() & ~is_in_time())


def _missed(late: DataFrame, told: DataFrame, read: DataFrame) -> DataFrame:
    """One row per identity that a query read and did not count: LATE_EVENTS without healed_at, at the copy it read first.

    An identity of which any copy came in time counts. Late copies are few, so they are found first, and copies in time
    are looked for among theirs only.
    """
    place = F.struct("batch_id", "partition", "offset")
    first = F.min_by(F.struct(*_ADDRESS, "batch_id", "watermark", "generation"), place).alias("first")
    missed = late.groupBy(*_IDENTITY).agg(first).select(*_IDENTITY, "first.*")
    # A stream's watermark never goes back: a copy in time was read before the late ones, or with them.
    suspects = F.broadcast(late.select("key", "event_time").distinct())
    others = ledger.with_batch(
        told.join(suspects, on=["key", "event_time"], how="left_semi"), read, columns=_ABOUT
    )
    in_time = others.where(is_wanted() & is_in_time()).select(*_IDENTITY)
    micros = (F.unix_micros("watermark") - F.unix_micros("event_time")).cast("decimal(18,0)")
    seconds = (micros / F.lit(1_000_000)).cast("decimal(18,6)")
    return missed.join(in_time, on=[*_IDENTITY], how="left_anti").withColumn("lateness_seconds", seconds)


def _with_healed(late: DataFrame, counted: Mapping[str, Counted]) -> DataFrame:
    """The late events, each with `healed_at`: when the published batch form of its view was made, if that counts it."""
    rows = late.drop("healed_at")
    parts = [rows.where(~F.col("query").isin(*counted)) if counted else rows]
    parts[0] = parts[0].withColumn("healed_at", F.lit(None).cast("timestamp"))
    for view, form in counted.items():
        mine = _with_held(rows.where(F.col("query") == view), form.log)
        is_counted = F.col("is_held") & (F.col("event_time") < F.lit(form.horizon))
        published_at = F.lit(form.published_at).cast("timestamp")
        parts.append(mine.withColumn("healed_at", F.when(is_counted, published_at)).drop("is_held"))
    return reduce(DataFrame.unionByName, parts)


def _with_held(late: DataFrame, log: Sequence[DataFrame] | None) -> DataFrame:
    """The late events, each with whether the log holds it."""
    if log is None:
        return late.withColumn("is_held", F.lit(True))
    addresses = reduce(DataFrame.unionByName, [rows.select(*_ADDRESS) for rows in log])
    mine = F.broadcast(late.select(*_ADDRESS))
    held = addresses.join(mine, on=[*_ADDRESS], how="left_semi").distinct().withColumn("is_held", F.lit(True))
    return late.join(held, on=[*_ADDRESS], how="left").withColumn(
        "is_held", F.coalesce("is_held", F.lit(False))
    )


def _forget_older_generations(spark: SparkSession, path: str, scopes: Sequence[Scope]) -> None:
    is_older = F.lit(False)
    for scope in scopes:
        is_older = is_older | (
            (F.col("query") == scope.view.name) & (F.col("generation") != scope.generation)
        )
    if newest_version(spark, path) and not spark.read.format("delta").load(path).where(is_older).isEmpty():
        DeltaTable.forPath(spark, path).delete(is_older)
