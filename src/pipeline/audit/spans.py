"""What each query has read of each partition, by its checkpoint; and whether the ledger's ranges cover just that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import catalog, checkpoints, ledger
from pipeline.audit.accounts import Fault, fault_at
from pipeline.evidence import Evidence
from pipeline.feeds import feed_of
from pipeline.kafka_offsets import Partition, Run
from pipeline.settings import Settings
from pipeline.sources import kind_of_topic
from pipeline.tables import checkpoint_path

__all__ = ["MOST_ROWS", "Span", "as_table", "ingested_spans", "ledger_faults", "query_spans"]


MOST_ROWS = 100_000


@dataclass(frozen=True)
class Span:
    """A source of a query and partition, and the offsets that its checkpoint says were read."""

    query: str
    source: int
    place: Partition
    span: Run


def ingested_spans(spark: SparkSession, settings: Settings) -> list[Span]:
    """What ingest has read of each partition, by its checkpoint."""
    checkpoint = checkpoint_path(settings.lake.root, ledger.INGEST)
    newest = checkpoints.last_committed_batch(spark, checkpoint)
    return [] if newest is None else _by_checkpoint(spark, checkpoint, ledger.INGEST, newest)


def query_spans(spark: SparkSession, settings: Settings, found: Evidence) -> list[Span]:
    """What each query has read of the topics of its sources up to its judged batch, by its checkpoint.

    Ingest reads all topics in one batch, so a batch of the log spans topics that the query's tables do not hold.
    """
    root, kinds = settings.lake.root, kind_of_topic(settings)
    views = {scope.view.query: scope.view for scope in found.scopes.values()}
    judged = {scope.view.query: scope.judged for scope in found.scopes.values()}
    feeds = {query: feed for query, view in views.items() if (feed := feed_of(root, view))}
    tables = catalog.typed_tables(settings)
    of_log = [
        Span(query, one.source, (one.topic, one.partition), (one.first, one.end))
        for query, ranges in ledger.read_of_log(spark, root, judged, tables=tables, feeds=feeds).items()
        for one in ranges
    ]
    of_kafka = [
        span
        for query, batch_id in judged.items()
        for span in _by_checkpoint(spark, checkpoint_path(root, query), query, batch_id)
    ]
    return [
        span
        for span in [*of_kafka, *of_log]
        if kinds.get(span.place[0]) == views[span.query].reads[span.source].kind
    ]


def _by_checkpoint(spark: SparkSession, checkpoint: str, query: str, batch_id: int) -> list[Span]:
    return [
        Span(query, source, place, (first, end))
        for source, ends in enumerate(checkpoints.ends(spark, checkpoint, batch_id))
        for began in [checkpoints.began(spark, checkpoint, source)]
        for place, end in sorted(ends.items())
        for first in [began.get(place, 0)]
    ]


def ledger_faults(spark: SparkSession, found: Evidence, read: Sequence[Span]) -> list[Fault]:
    """Holes and overlaps of the ledger's ranges within what the checkpoint says was read."""
    if not read:
        return []
    within = Window.partitionBy("query", "source", "topic", "partition").orderBy("first_offset", "end_offset")
    expected = as_table(spark, read)
    entries = expected.join(found.entries, on=["query", "source", "topic", "partition"], how="left").where(
        F.col("first_offset").isNull()
        | ((F.col("first_offset") < F.col("end")) & (F.col("end_offset") > F.col("first")))
    )
    before = F.coalesce(
        F.max("end_offset").over(within.rowsBetween(Window.unboundedPreceding, -1)), F.col("first")
    )
    is_last = F.lead("first_offset").over(within).isNull()
    placed = entries.select(
        "query",
        "source",
        "topic",
        "partition",
        "first",
        "end",
        before.alias("before"),
        F.coalesce("first_offset", F.col("end")).alias("next"),
        F.when(is_last, F.greatest(F.coalesce("end_offset", "end"), before)).alias("last"),
    )
    breaks = placed.where((F.col("next") != F.col("before")) | (F.col("last") < F.col("end"))).limit(
        MOST_ROWS
    )
    runs: dict[tuple[str, str, str, int], list[Run]] = defaultdict(list)

    def note(fault: str, row: Row, first: int, end: int) -> None:
        runs[fault, row["query"], row["topic"], row["partition"]].append((first, end))

    for row in breaks.collect():
        if row["next"] > row["before"]:
            note("not_in_ledger", row, row["before"], row["next"])
        elif row["next"] < row["before"]:
            note("read_twice", row, row["next"], row["before"])
        if row["last"] is not None and row["last"] < row["end"]:
            note("not_in_ledger", row, row["last"], row["end"])
    return [
        fault_at(fault, shown(query, found), (topic, partition), found_runs)
        for (fault, query, topic, partition), found_runs in sorted(runs.items())
    ]


def shown(query: str, found: Evidence) -> str:
    """A speed query goes by its view's name, as in `late_events`."""
    views = (scope.view for scope in found.scopes.values())
    return next((view.name for view in views if view.query == query), query)


def as_table(spark: SparkSession, read: Sequence[Span]) -> DataFrame:
    rows = [(reading.query, reading.source, *reading.place, *reading.span) for reading in read]
    return spark.createDataFrame(
        rows, "query string, source int, topic string, partition int, first bigint, end bigint"
    )
