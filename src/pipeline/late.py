"""`late_events`: which events a speed query did not count because they came behind its watermark.

Nothing is estimated: the ledger says behind which watermark each offset was read, the log says what the event was, and
an event at or before that watermark was dropped by the query's first stateful step. (Spark 4.2: a step drops rows by the
watermark of the batch before, which is what the ledger keeps. `numRowsDroppedByWatermark` counts after a partial
aggregation and is no number of events.)
"""

from __future__ import annotations

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import batch, ledger
from pipeline.contracts import ORDER_IDENTITY, ORDERS, PRODUCT_IDENTITY, TEXT_LINES
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table
from pipeline.tables import LATE_EVENTS, SCHEMAS, table_path
from pipeline.views import Reading, View

__all__ = ["counted_events", "late_events", "read_by_query", "record"]

_ADDRESS = ("topic", "partition", "offset")


def read_by_query(
    spark: SparkSession, settings: Settings, view: View, *, log: batch.Snapshot
) -> list[DataFrame]:
    """For each source of the view's query, the accepted events in the log that it has read: their columns and `watermark`.

    What a seeded query began with counts as read in time: the events before its horizon in the log of its seed.
    """
    seed = batch.seed_of(spark, settings, view)
    return [
        _with_seed(_read_by(spark, settings, view, source, log=log), spark, settings, reading, seed)
        for source, reading in enumerate(view.reads)
    ]


def _read_by(
    spark: SparkSession, settings: Settings, view: View, source: int, *, log: batch.Snapshot
) -> DataFrame:
    events = _events(spark, settings, view.reads[source], log=log).alias("event")
    ranges = ledger.read_ranges(spark, settings.lake.root, view.query, source=source).alias("range")
    is_same_partition = (F.col("event.topic") == F.col("range.topic")) & (
        F.col("event.partition") == F.col("range.partition")
    )
    is_inside = (F.col("event.offset") >= F.col("first_offset")) & (
        F.col("event.offset") < F.col("end_offset")
    )
    read = events.join(F.broadcast(ranges), on=is_same_partition & is_inside, how="inner")
    return read.select("event.*", "batch_id", "watermark")


def _with_seed(
    read: DataFrame, spark: SparkSession, settings: Settings, reading: Reading, seed: batch.Published | None
) -> DataFrame:
    if seed is None or seed.horizon is None:
        return read
    before = _events(spark, settings, reading, log=seed.log).where(F.col("event_time") < seed.horizon)
    seeded = before.withColumns(
        {"batch_id": F.lit(None).cast("long"), "watermark": F.lit(None).cast("timestamp")}
    )
    return read.where(F.col("event_time") >= seed.horizon).unionByName(seeded)


def late_events(read: DataFrame, *, view: View, source: int) -> DataFrame:
    """One row per identity that was not counted: LATE_EVENTS without healed_at, at its first (partition, offset).

    An identity of which any copy came in time counts. `read` is what `read_by_query` gives.
    """
    reading = view.reads[source]
    if reading.kind == TEXT_LINES:
        return read.sparkSession.createDataFrame([], SCHEMAS[LATE_EVENTS]).drop("healed_at")
    identity = _identity(reading)
    others = ("key", "watermark", "batch_id", *_ADDRESS)
    per_identity = (
        read.withColumn("key", F.concat_ws("|", *[c for c in identity if c != "event_time"]))
        .groupBy(*identity)
        .agg(
            F.bool_or(_is_in_time()).alias("is_counted"),
            F.min_by(F.struct(*others), F.struct("partition", "offset")).alias("first"),
        )
    )
    late = per_identity.where(~F.col("is_counted")).select("event_time", "first.*")
    lateness = (F.unix_micros("watermark") - F.unix_micros("event_time")).cast("decimal(18,0)")
    return late.select(
        F.lit(view.name).alias("query"),
        "key",
        "event_time",
        "watermark",
        (lateness / F.lit(1_000_000)).cast("decimal(18,6)").alias("lateness_seconds"),
        *_ADDRESS,
        "batch_id",
    )


def counted_events(read: DataFrame, *, view: View, source: int) -> DataFrame:
    """The events whose identity the query counted: every copy of it, with the columns of the log."""
    reading = view.reads[source]
    if reading.kind == TEXT_LINES:
        return read
    identity = _identity(reading)
    in_time = read.where(_is_in_time()).select(*identity).distinct()
    return read.join(in_time, on=[*identity], how="left_semi")


def record(spark: SparkSession, settings: Settings, late: DataFrame) -> None:
    """Enter events that are not in `late_events` yet."""
    path = table_path(settings.lake.root, LATE_EVENTS)
    create_table(spark, path, SCHEMAS[LATE_EVENTS])
    new = late.withColumn("healed_at", F.lit(None).cast("timestamp"))
    is_known = " AND ".join(f"known.`{name}` = new.`{name}`" for name in ("query", *_ADDRESS))
    merge = (
        DeltaTable.forPath(spark, path)
        .alias("known")
        .merge(new.alias("new"), is_known)
        .whenNotMatchedInsertAll()
    )
    with commit_lock(path):
        merge.execute()


def _is_in_time() -> Column:
    return F.col("watermark").isNull() | (F.col("event_time") > F.col("watermark"))


def _events(spark: SparkSession, settings: Settings, reading: Reading, *, log: batch.Snapshot) -> DataFrame:
    events = batch.events_of(spark, settings, reading.kind, log=log)
    return events if reading.event_type is None else events.where(F.col("event_type") == reading.event_type)


def _identity(reading: Reading) -> tuple[str, ...]:
    return ORDER_IDENTITY if reading.kind == ORDERS else PRODUCT_IDENTITY
