"""What became of each event that a query may have read: was it in the batch's log, repaired, read, in time, met first?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import catalog, late, ledger
from pipeline.contracts import CONTRACT_VERSION, RECORD_IDENTITY
from pipeline.evidence import Evidence
from pipeline.kinds import Kind
from pipeline.published import Published, Snapshot, events_of, seed_of
from pipeline.settings import Settings
from pipeline.views import Reading, View, best_of_each_key

__all__ = ["concerned", "events_read", "flagged_events", "is_met", "view_over"]


def events_read(spark: SparkSession, settings: Settings, reading: Reading, found: Evidence) -> DataFrame:
    """What a source of a query may have read: the events of its kind and type in the log as it is now."""
    events = events_of(spark, settings, reading.kind, log=found.log)
    return events if reading.event_type is None else events.where(F.col("event_type") == reading.event_type)


def concerned(events: DataFrame, keys: DataFrame, *, view: View, kind: Kind) -> DataFrame:
    """The events that can have a part in rows of these keys, every copy of each; of what is joined to the first input all may."""
    if kind.name != view.inputs[0]:
        return events
    shared = [name for name in view.keys if name in events.columns]
    named = events.join(F.broadcast(keys.select(*shared).distinct()), on=shared, how="left_semi")
    identities = named.select(*kind.identity).distinct()
    return events.join(identities, on=[*kind.identity], how="left_semi")


def flagged_events(
    events: DataFrame,
    spark: SparkSession,
    settings: Settings,
    view: View,
    source: int,
    *,
    newest: Published,
    found: Evidence,
) -> DataFrame:
    """The events, each with what became of it: was it in the log of the batch run, repaired, read by the query, in time?

    is_counted and is_late are of its identity (a copy in time, or copies read and none in time), is_first marks the
    copy that the query met first, is_conflicting an identity with differing contents, is_rival each copy in time in
    the batch that the query met it in.
    """
    scope, reading = found.scopes[view.name], view.reads[source]
    kind = catalog.kinds(settings)[reading.kind]
    contents = [name for name in events.columns if name not in (*RECORD_IDENTITY, "contract_version")]
    ranges = ledger.within(found.entries, {view.query: scope.judged}).where(F.col("source") == source)
    rows = ledger.with_batch(events, ranges, columns=("batch_id", "watermark"), how="left")
    log = events_of(spark, settings, reading.kind, log=newest.log)
    rows = _with_presence(rows, log, "in_batch", is_all=_is_same_log(newest.log, found.log, kind))
    rows = _with_presence(rows, found.repaired_for(view.name), "is_repaired", is_all=False)
    rows = _with_seed(rows, spark, settings, view, kind, found)
    rows = rows.withColumn("is_read", F.col("batch_id").isNotNull() & ~F.col("is_repaired"))
    rows = rows.withColumn("is_in_time", F.col("is_read") & late.is_in_time())
    copies = Window.partitionBy(*kind.identity)
    content = F.xxhash64(*contents)
    as_met = copies.orderBy(F.desc("is_in_time"), "batch_id", "partition", "offset")
    rows = rows.withColumns(
        {
            "is_counted": F.max("is_in_time").over(copies),
            "is_late": F.max("is_read").over(copies) & ~F.max("is_in_time").over(copies),
            "is_first": F.row_number().over(as_met) == 1,
            "is_conflicting": F.min(content).over(copies) != F.max(content).over(copies),
            "is_rival": F.col("is_in_time")
            & (F.col("batch_id") == F.min(F.when(F.col("is_in_time"), F.col("batch_id"))).over(copies)),
            "is_changed": F.col("contract_version") != CONTRACT_VERSION,
        }
    )
    if view.is_seeded and newest.horizon is not None:
        is_before = F.col("event_time") < F.lit(newest.horizon)
        rows = rows.withColumn("in_batch", F.when(is_before, F.col("in_batch")).otherwise(is_met(reading)))
    return rows


def _with_presence(rows: DataFrame, others: DataFrame, name: str, *, is_all: bool) -> DataFrame:
    """The rows, each with whether its address is among the others'."""
    if is_all:
        return rows.withColumn(name, F.lit(True))
    addresses = others.select(*RECORD_IDENTITY).distinct().withColumn(name, F.lit(True))
    joined = rows.join(addresses, on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn(name, F.coalesce(name, F.lit(False)))


def _is_same_log(one: Snapshot, other: Snapshot, kind: Kind) -> bool:
    return one.versions[kind.table] == other.versions[kind.table]


def _with_seed(
    rows: DataFrame,
    spark: SparkSession,
    settings: Settings,
    view: View,
    kind: Kind,
    found: Evidence,
) -> DataFrame:
    """What a seeded query began with counts as read, in time, by a batch before its first; the rest of that time as unread."""
    seed = seed_of(spark, settings, view)
    if seed is None or seed.horizon is None:
        return rows
    log = events_of(spark, settings, kind.name, log=seed.log)
    rows = _with_presence(rows, log, "in_seed", is_all=_is_same_log(seed.log, found.log, kind))
    is_before = F.col("event_time") < F.lit(seed.horizon)
    seeded = F.when(F.col("in_seed"), F.lit(-1).cast("long"))
    return rows.withColumns(
        {
            "batch_id": F.when(is_before, seeded).otherwise(F.col("batch_id")),
            "watermark": F.when(~is_before, F.col("watermark")),
            "is_repaired": F.col("is_repaired") & ~(is_before & F.col("in_seed")),
        }
    ).drop("in_seed")


def is_met(reading: Reading) -> Column:
    """Whether the query has taken just this copy: of what is counted once the first that came, else every one."""
    return F.col("is_in_time") & F.col("is_first") if reading.is_counted_once else F.col("is_in_time")


def view_over(view: View, sources: Sequence[DataFrame]) -> DataFrame:
    """The view over these events, one DataFrame for each source of its query."""
    inputs = [
        reduce(
            DataFrame.unionByName,
            [rows for rows, reading in zip(sources, view.reads, strict=True) if reading.kind == kind],
        )
        for kind in view.inputs
    ]
    return best_of_each_key(view.define(*inputs), view=view)
