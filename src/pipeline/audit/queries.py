"""Every event that a speed query had to read: counted, or late; and tables that hold just what was counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from pipeline import late, ledger
from pipeline.audit.accounts import Fault, QueryAccount, fault_at
from pipeline.audit.runs import runs_of
from pipeline.audit.spans import MOST_ROWS, Span
from pipeline.delta_log import newest_version
from pipeline.evidence import Evidence, identified_events, speed_table
from pipeline.published import seed_of
from pipeline.serving import speed_rows
from pipeline.settings import Settings
from pipeline.sources import read_version
from pipeline.tables import view_path

__all__ = ["account_queries"]


def account_queries(
    spark: SparkSession, settings: Settings, found: Evidence, read: Sequence[Span]
) -> tuple[list[QueryAccount], list[Fault]]:
    if not found.scopes:
        return [], []
    told = identified_events(spark, settings, found, with_text=True)
    identity = ("query", "topic", "key", "event_time")
    entries = late.readings(spark, found.entries, [*found.scopes.values()])
    about = ("query", "wanted_type", "counts_from", "watermark")
    in_time = ledger.with_batch(told, entries, columns=about).where(
        late.is_wanted() & (late.is_in_time() | F.col("event_time").isNull())
    )
    should = told.join(F.broadcast(_wanted(spark, found, read)), on=["topic", "partition"]).where(
        (F.col("offset") >= F.col("first")) & (F.col("offset") < F.col("end")) & late.is_wanted()
    )
    missed = late.recorded(spark, settings.lake.root).where(F.col("query").isin(*found.scopes))
    place = F.struct("partition", "offset").alias("place")
    parts = [
        rows.select(
            *identity, place, *[F.lit(name == mark).alias(name) for name in ("should", "counted", "late")]
        )
        for mark, rows in (("should", should), ("counted", in_time), ("late", missed))
    ]
    verdicts = (
        reduce(DataFrame.unionByName, parts)
        .groupBy(*identity)
        .agg(
            *[F.bool_or(name).alias(name) for name in ("should", "counted", "late")],
            F.min("place").alias("place"),
        )
    )
    is_missed = F.col("should") & ~F.col("counted") & ~F.col("late")
    is_wrong = F.col("late") & (F.col("counted") | ~F.col("should"))
    counts = (
        verdicts.groupBy("query", "topic")
        .agg(
            F.count_if("should").alias("to_read"),
            F.count_if(F.col("should") & F.col("counted")).alias("counted"),
            F.count_if("late").alias("late"),
            F.count_if(is_missed | is_wrong).alias("wrong"),
        )
        .orderBy("query", "topic")
        .collect()
    )
    accounts = [
        QueryAccount(
            row["query"],
            row["topic"],
            found.scopes[row["query"]].judged,
            row["to_read"],
            row["counted"],
            row["late"],
        )
        for row in counts
    ]
    faults = []
    if any(row["wrong"] for row in counts):
        verdict = F.when(is_missed, "not_counted").when(is_wrong, "wrongly_late")
        faults = _event_faults(verdicts.withColumn("fault", verdict))
    faults += _table_faults(spark, settings, found, accounts)
    return accounts, [*faults, *_key_faults(spark, settings, found)]


def _wanted(spark: SparkSession, found: Evidence, read: Sequence[Span]) -> DataFrame:
    """The spans of the speed queries, each with its view as `query` and with what the source counts."""
    scopes = {scope.view.query: scope for scope in found.scopes.values()}
    rows = [
        (
            scopes[reading.query].view.name,
            *reading.place,
            *reading.span,
            scopes[reading.query].view.reads[reading.source].event_type,
            scopes[reading.query].counts_from,
        )
        for reading in read
        if reading.query in scopes
    ]
    return spark.createDataFrame(
        rows,
        "query string, topic string, partition int, first bigint, end bigint, wanted_type string, counts_from timestamp",
    )


def _event_faults(verdicts: DataFrame) -> list[Fault]:
    rows = (
        verdicts.where(F.col("fault").isNotNull())
        .select("fault", "query", "topic", "place.*")
        .orderBy("query", "topic", "partition", "offset")
        .limit(MOST_ROWS)
        .collect()
    )
    offsets: dict[tuple[str, str, str, int], list[int]] = defaultdict(list)
    for row in rows:
        offsets[row["fault"], row["query"], row["topic"], row["partition"]].append(row["offset"])
    return [
        fault_at(fault, query, (topic, partition), runs_of(numbers))
        for (fault, query, topic, partition), numbers in offsets.items()
    ]


def _table_faults(
    spark: SparkSession, settings: Settings, found: Evidence, accounts: Sequence[QueryAccount]
) -> list[Fault]:
    """Of the views whose rows say how many orders they hold: whether the table adds up to what the query counted."""
    faults = []
    for account in accounts:
        view = found.scopes[account.query].view
        table = speed_table(spark, settings, view, found)
        if "order_count" not in view.columns or table is None:
            continue
        seed = seed_of(spark, settings, view)
        held = _order_count(speed_rows(spark, view, *table))
        if seed is not None:
            held -= _order_count(read_version(spark, seed.path, seed.version))
        if held != account.counted:
            detail = f"the table adds up to {held} orders, the query counted {account.counted}"
            difference = abs(held - account.counted)
            faults.append(Fault("table_differs", view.name, account.topic, None, difference, detail=detail))
    return faults


def _key_faults(spark: SparkSession, settings: Settings, found: Evidence) -> list[Fault]:
    """Of every view: whether a table of one of its layers has a key more than once."""
    tables = []
    for scope in found.scopes.values():
        view = scope.view
        batch = view_path(settings.lake.root, view.name, "batch", view.label)
        version, speed = newest_version(spark, batch), speed_table(spark, settings, view, found)
        if speed is not None:
            tables.append((view, "speed", speed_rows(spark, view, *speed)))
        if version is not None:
            tables.append((view, "batch", read_version(spark, batch, version)))
    keys = [
        rows.select(
            F.lit(view.name).alias("view"),
            F.lit(layer).alias("layer"),
            F.to_json(F.struct(*view.keys)).alias("key"),
        )
        for view, layer, rows in tables
    ]
    if not keys:
        return []
    repeated = reduce(DataFrame.union, keys).groupBy("view", "layer", "key").count().where("count > 1")
    rows = repeated.groupBy("view", "layer").agg(F.count(F.lit(1)).alias("keys"), F.min("key").alias("first"))
    return [
        Fault("key_repeated", row["view"], None, None, row["keys"], detail=_repeated(row))
        for row in rows.orderBy("view", "layer").collect()
    ]


def _repeated(row: Row) -> str:
    view, layer = row["view"], row["layer"]
    anew = (
        f"pipeline batch {view}"
        if layer == "batch"
        else f"pipeline replay {view}, then pipeline promote {view}"
    )
    return f"the {layer} table has so many keys more than once, the first of them {row['first']}; make it anew: {anew}"


def _order_count(rows: DataFrame) -> int:
    (row,) = rows.agg(F.sum("order_count").alias("orders")).collect()
    return int(row["orders"] or 0)
