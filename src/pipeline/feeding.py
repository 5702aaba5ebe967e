"""How a feed is made: the history is put in order once, and what ingest has appended since is added, each record once.

A feed speaks in batches of ingest, as the ledger does: up to which one it holds the log, its newest commit says. So an addition
is the rows between the offsets that the ledger names, and one that was cut short is not there at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import ceil

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import catalog, files, ledger
from pipeline.console import step
from pipeline.contracts import RECORD_IDENTITY
from pipeline.errors import RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.feeds import Facts, as_feed, feed_path, newest_facts
from pipeline.kafka_offsets import Partition, Run
from pipeline.published import KEPT_HISTORY, Origin, events_of, snapshot
from pipeline.settings import Settings
from pipeline.sinks import append_with, commit_lock, create_table
from pipeline.sources import table_version
from pipeline.tables import BATCH_LEDGER, REPAIRS, table_path, view_path
from pipeline.views import View

__all__ = ["extend", "prepare", "require_history"]


def prepare(spark: SparkSession, settings: Settings, view: View, *, origin: Origin = "typed") -> None:
    """Make the feed's history, if it is not complete yet: all that the log holds now, repaired dead letters among it.

    First it is laid in order beside the feed, then appended slice by slice. What is there already is not made again.
    """
    path = feed_path(settings.lake.root, view)
    ordered = view_path(settings.lake.root, view.name, "history", view.label)
    done = newest_facts(spark, path)
    if done is not None and done.through is not None:
        files.remove(spark, ordered)  # which a process may have left that ended after the last slice
        return
    with step(f"replay {view.name}: the history in order"):
        told = json.loads(files.read_text(spark, f"{ordered}/facts.json") or "null")
        if told is None:
            told = _lay_in_order(spark, settings, view, ordered, origin=origin)
        failpoint("replay: history in order")
        names: list[str] = told["slices"]
        for number in range(done.slices if done else 0, len(names)):
            is_last = number == len(names) - 1
            facts = Facts(told["generation"], number + 1, told["through"] if is_last else None)
            rows = spark.read.parquet(f"{ordered}/{names[number]}")
            if number == 0:
                create_table(spark, path, rows.schema, properties=KEPT_HISTORY)
            append_with(rows.coalesce(1), path, metadata=facts.as_metadata())
            failpoint("replay: a slice")
    files.remove(spark, ordered)


def require_history(spark: SparkSession, settings: Settings) -> None:
    """Raise RefusedToStart where ingest has finished no batch, so that there is nothing that a feed could be made of."""
    _ingested(spark, settings)


def extend(spark: SparkSession, settings: Settings, view: View) -> None:
    """Append what ingest has read since, as one commit; nothing where it has read nothing.

    Repairs are left out: they come to no stream that was there before them, and batch counts them. Raises RefusedToStart where the log is another one.
    """
    root = settings.lake.root
    path = feed_path(root, view)
    known = newest_facts(spark, path)
    assert known is not None
    assert known.through is not None
    newest = _ingested(spark, settings)
    if newest.generation != known.generation:
        raise RefusedToStart(
            f"{view.name}: the feed of version {view.label} was copied from the log of an ingest that began before the present "
            f"one.\nThe log has been made anew since. So must the version be: pipeline replay {view.name} --anew"
        )
    if newest.through <= known.through:
        return
    spans = _spans(spark, root, newest, after=known.through)
    if spans:
        rows = _events(spark, settings, view, spans, origin="typed", with_repairs=False)
        facts = Facts(newest.generation, known.slices, newest.through)
        with commit_lock(path):
            if newest_facts(spark, path) == known:  # else another process has added it meanwhile
                append_with(rows.coalesce(1), path, metadata=facts.as_metadata())
                failpoint("replay: feed extended")


def _lay_in_order(
    spark: SparkSession, settings: Settings, view: View, ordered: str, *, origin: Origin
) -> dict[str, object]:
    """Write the history as one folder for each slice; what they are is written last."""
    newest = _ingested(spark, settings)
    spans = _spans(spark, settings.lake.root, newest, after=-1)
    rows = _events(spark, settings, view, spans, origin=origin, with_repairs=True)
    slices = max(1, ceil(rows.count() / settings.speed.max_offsets_per_trigger))
    in_order = rows.withColumn("place", _place(settings, view)).repartitionByRange(slices, "place")
    in_order = in_order.drop("place").withColumn("slice", F.spark_partition_id())
    in_order.write.partitionBy("slice").mode("overwrite").parquet(ordered)
    names = [name for name in files.names(spark, ordered) if name.startswith("slice=")]
    names.sort(key=lambda name: int(name.partition("=")[2]))
    if not names:  # nothing has happened yet
        rows.limit(0).write.mode("overwrite").parquet(f"{ordered}/slice=0")
        names = ["slice=0"]
    facts = {"generation": newest.generation, "through": newest.through, "slices": names}
    files.write_text(spark, f"{ordered}/facts.json", json.dumps(facts))
    return facts


def _place(settings: Settings, view: View) -> Column:
    """Where an event stands in the history: by its time; text, which has none, by its offset."""
    kinds = [catalog.kinds(settings)[kind] for kind in view.inputs]
    return F.coalesce(
        *[
            F.col(f"`{kind.name}`.offset") if kind.is_text else F.unix_micros(f"`{kind.name}`.event_time")
            for kind in kinds
        ]
    )


def _events(
    spark: SparkSession,
    settings: Settings,
    view: View,
    spans: Mapping[Partition, Run],
    *,
    origin: Origin,
    with_repairs: bool,
) -> DataFrame:
    """The accepted events of the view's kinds between these offsets, as rows of a feed."""
    log = snapshot(spark, settings)
    events = {}
    for kind in view.inputs:
        rows = events_of(spark, settings, kind, log=log, origin=origin).where(_is_inside(spans))
        events[kind] = rows if with_repairs else _unrepaired(spark, settings, rows)
    return as_feed(events)


def _is_inside(spans: Mapping[Partition, Run]) -> Column:
    """In the words of the table's own columns, by whose smallest and largest values files are passed over."""
    parts = [
        (F.col("topic") == topic)
        & (F.col("partition") == partition)
        & (F.col("offset") >= first)
        & (F.col("offset") < end)
        for (topic, partition), (first, end) in spans.items()
    ]
    return reduce(Column.__or__, parts, F.lit(False))


def _unrepaired(spark: SparkSession, settings: Settings, events: DataFrame) -> DataFrame:
    path = table_path(settings.lake.root, REPAIRS)
    if table_version(spark, path) is None:
        return events
    decided = spark.read.format("delta").load(path).select(*RECORD_IDENTITY)
    return events.join(F.broadcast(decided), on=[*RECORD_IDENTITY], how="left_anti").select(*events.columns)


@dataclass(frozen=True)
class _Ingested:
    """How far the log has come: the newest batch of ingest, of its present generation, whose rows are all there."""

    generation: str
    through: int


def _ingested(spark: SparkSession, settings: Settings) -> _Ingested:
    """Raises RefusedToStart where there is none."""
    root = settings.lake.root
    generation = ledger.generations(spark, root, [ledger.INGEST]).get(ledger.INGEST)
    newest = ledger.newest_batch(spark, root, ledger.INGEST, generation) if generation else None
    if generation is None or newest is None:
        raise RefusedToStart(
            f"nothing has been ingested into the lake {root} yet, so there is no history to replay.\n"
            "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
        )
    return _Ingested(generation, newest)


def _spans(spark: SparkSession, root: str, newest: _Ingested, *, after: int) -> dict[Partition, Run]:
    """Which offsets ingest has read in its batches after `after`, by topic partition."""
    entries = spark.read.format("delta").load(table_path(root, BATCH_LEDGER))
    return ledger.spans_of_ingest(entries, newest.generation, after=after, through=newest.through)
