"""Every event that a speed query had to read: counted, or late; and tables that hold just what was counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
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
    scopes = [*found.scopes.values()]
    batches = late.readings(spark, found.entries, scopes).withColumn("mark", F.lit("counted"))
    ranges = batches.unionByName(_wanted(spark, found, read), allowMissingColumns=True)
    about = ("query", "wanted_type", "counts_from", "watermark", "mark")
    is_in_time = (F.col("mark") == "should") | late.is_in_time() | F.col("event_time").isNull()
    met = ledger.with_batch(told, ranges, columns=about).where(late.is_wanted() & is_in_time)
    missed = late.recorded(spark, settings.lake.root).where(F.col("query").isin(*found.scopes))
    identity = ("query", "topic", "key", "event_time")
    marked = met.unionByName(missed.withColumn("mark", F.lit("late")), allowMissingColumns=True)
    verdicts = marked.groupBy(*identity).agg(
        *[F.bool_or(F.col("mark") == name).alias(name) for name in ("should", "counted", "late")],
        F.min(F.struct("partition", "offset")).alias("place"),
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
    return accounts, [*faults, *_table_faults(spark, settings, found, accounts)]


def _wanted(spark: SparkSession, found: Evidence, read: Sequence[Span]) -> DataFrame:
    """The spans of the speed queries in the form of `late.readings`, marked `should`."""
    scopes = {scope.view.query: scope for scope in found.scopes.values()}
    rows = [
        (
            scopes[reading.query].view.name,
            *reading.place,
            *reading.span,
            scopes[reading.query].view.reads[reading.source].event_type,
            scopes[reading.query].counts_from,
            "should",
        )
        for reading in read
        if reading.query in scopes
    ]
    return spark.createDataFrame(
        rows,
        "query string, topic string, partition int, first_offset bigint, end_offset bigint, wanted_type string, "
        "counts_from timestamp, mark string",
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
    """Of every view: whether a table of one of its layers has a key more than once; and of those whose rows say how many
    orders they hold, whether the speed table adds up to what the query counted.
    """
    held = _held(spark, settings, found)
    faults = []
    for account in accounts:
        view = found.scopes[account.query].view
        speed, seed = held.get((view.name, "speed")), held.get((view.name, "seed"))
        if "order_count" not in view.columns or speed is None:
            continue
        orders = speed.orders - (seed.orders if seed else 0)
        if orders != account.counted:
            detail = f"the table adds up to {orders} orders, the query counted {account.counted}"
            difference = abs(orders - account.counted)
            faults.append(Fault("table_differs", view.name, account.topic, None, difference, detail=detail))
    return faults + [
        Fault("key_repeated", view, None, None, one.repeated, detail=_repeated(view, layer, one.first))
        for (view, layer), one in held.items()
        if one.repeated and layer != "seed"
    ]


@dataclass(frozen=True)
class _Held:
    """The orders that a table's rows say they hold, how many keys it has more than once, and the first of those."""

    orders: int = 0
    repeated: int = 0
    first: str | None = None


def _held(spark: SparkSession, settings: Settings, found: Evidence) -> dict[tuple[str, str], _Held]:
    """By view and layer: `speed`, `batch`, or the `seed` that the speed table began with."""
    tables = {}
    for scope in found.scopes.values():
        view = scope.view
        batch = view_path(settings.lake.root, view.name, "batch", view.label)
        version, speed = newest_version(spark, batch), speed_table(spark, settings, view, found)
        seed = seed_of(spark, settings, view)
        if speed is not None:
            tables[view.name, "speed"] = speed_rows(spark, view, *speed)
        if version is not None:
            tables[view.name, "batch"] = read_version(spark, batch, version)
        if speed is not None and seed is not None:
            tables[view.name, "seed"] = read_version(spark, seed.path, seed.version)
    if not tables:
        return {}
    parts = []
    for (name, layer), rows in tables.items():
        view = found.scopes[name].view
        orders = F.col("order_count") if "order_count" in view.columns else F.lit(None)
        parts.append(
            rows.select(
                F.lit(name).alias("view"),
                F.lit(layer).alias("layer"),
                F.to_json(F.struct(*view.keys)).alias("key"),
                orders.cast("bigint").alias("orders"),
            )
        )
    by_key = reduce(DataFrame.union, parts).groupBy("view", "layer", "key")
    is_repeated = F.col("rows") > 1
    found_rows = (
        by_key.agg(F.count(F.lit(1)).alias("rows"), F.sum("orders").alias("orders"))
        .groupBy("view", "layer")
        .agg(
            F.coalesce(F.sum("orders"), F.lit(0)).alias("orders"),
            F.count_if(is_repeated).alias("repeated"),
            F.min(F.when(is_repeated, F.col("key"))).alias("first"),
        )
        .collect()
    )
    told = {
        (row["view"], row["layer"]): _Held(row["orders"], row["repeated"], row["first"]) for row in found_rows
    }
    return {table: told.get(table, _Held()) for table in tables}


def _repeated(view: str, layer: str, first: str | None) -> str:
    anew = (
        f"pipeline batch {view}"
        if layer == "batch"
        else f"pipeline replay {view}, then pipeline promote {view}"
    )
    return (
        f"the {layer} table has so many keys more than once, the first of them {first}; make it anew: {anew}"
    )
