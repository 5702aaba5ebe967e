"""`batch_ledger`: what each micro-batch read, behind which watermark, and what became of it; written exactly once.

Ingest enters a batch last, so what is in the ledger is in the tables. What a speed query has read stands in its checkpoint
before it runs, and is entered from there, some batches at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import checkpoints
from pipeline.checkpoints import MicroBatch, OffsetRange
from pipeline.contracts import ACCEPTED, DEAD, FATES, TOMBSTONE
from pipeline.delta_log import newest_transaction, newest_version, table_id, transactions
from pipeline.failpoints import failpoint
from pipeline.feeds import facts_at
from pipeline.sinks import Transaction, append, commit_lock
from pipeline.tables import (
    BATCH_LEDGER,
    RAW_EVENTS,
    SCHEMAS,
    checkpoint_path,
    table_path,
)

__all__ = [
    "INGEST",
    "Fates",
    "catch_up",
    "entries",
    "fates",
    "generations",
    "judged",
    "newest_batch",
    "read_of_log",
    "record",
    "spans_of_ingest",
    "with_batch",
    "within",
]

INGEST = "ingest_v1"
"""The versioned name of the query that fills the log."""

_BUCKET_BITS = 12

_Spans = dict[tuple[str, int], tuple[int, int]]

Fates = Mapping[tuple[str, int], Mapping[str, int]]
"""How many records met which fate, by topic and partition."""


def fates(classified: DataFrame) -> Fates:
    counts = [F.count_if(F.col("fate") == fate).alias(fate) for fate in FATES]
    rows = classified.groupBy("topic", "partition").agg(*counts).collect()
    return {(row["topic"], row["partition"]): {fate: row[fate] for fate in FATES} for row in rows}


def record(
    spark: SparkSession, root: str, batch: MicroBatch, *, transaction: Transaction, counts: Fates
) -> None:
    """Enter a batch of ingest, with the fates that it has just counted."""
    rows = _entries(transaction.query, transaction.generation, batch, counts)
    _enter(spark, root, rows, transaction=transaction)


def catch_up(
    spark: SparkSession, root: str, query: str, *, tables: Sequence[str], feed: str | None = None
) -> int | None:
    """Enter the finished batches of a speed query that the ledger does not have yet; the newest that it has then.

    `tables` are those of accepted events, of which a query that reads the log reads; `feed` is what it reads in their place.

    Their checkpoint tells all there is to say, and Spark keeps the last 100 batches in it: a commit for each of them
    would only slow the query down. The fates stay null: the query reads what ingest has already judged.
    """
    checkpoint = checkpoint_path(root, query)
    generation, newest = (
        checkpoints.generation(spark, checkpoint),
        checkpoints.last_committed_batch(spark, checkpoint),
    )
    if generation is None or newest is None:
        return None
    path = table_path(root, BATCH_LEDGER)
    with commit_lock(path):
        taken = transactions(spark, path)
        known = taken.get(Transaction(query, generation, newest).application, -1)
        if known >= newest:
            return known
        told: list[_Told] = []
        for batch in checkpoints.finished_since(spark, checkpoint, known):
            one = (
                _told_by_feed(spark, batch, feed) if feed else _told_by_log(spark, root, batch, taken, tables)
            )
            if one is None:
                break
            told, known = [*told, one], batch.batch_id
        rows = [
            row
            for batch in _in_kafka_offsets(spark, root, told)
            for row in _entries(query, generation, batch, None)
        ]
        failpoint("ledger: read from the checkpoint")
        _enter(spark, root, rows, transaction=Transaction(query, generation, known))
    return known


def read_of_log(
    spark: SparkSession,
    root: str,
    batches: Mapping[str, int],
    *,
    tables: Sequence[str],
    feeds: Mapping[str, str],
) -> dict[str, tuple[OffsetRange, ...]]:
    """What queries of the log had read after these of their batches, told as what ingest had read for it: by their checkpoints and
    ingest's entries, whatever the ledger says of the queries themselves. `tables` as in `catch_up`, `feeds` by query.

    Of a query of Kafka there is nothing.
    """
    taken = transactions(spark, table_path(root, BATCH_LEDGER))
    told = {}
    for query, batch_id in batches.items():
        checkpoint = checkpoint_path(root, query)
        read = checkpoints.log_read(spark, checkpoint, batch_id)
        if not read:
            continue
        batch = replace(checkpoints.micro_batch(spark, checkpoint, batch_id), log_ranges=tuple(read))
        one = (
            _told_by_feed(spark, batch, feeds[query])
            if query in feeds
            else _told_by_log(spark, root, batch, taken, tables)
        )
        if one is not None:
            told[query] = one
    in_offsets = _in_kafka_offsets(spark, root, [*told.values()])
    return {query: batch.ranges for query, batch in zip(told, in_offsets, strict=True)}


@dataclass(frozen=True)
class _IngestRange:
    """Batches of one generation of ingest, after `after` up to and with `through`."""

    generation: str
    after: int
    through: int


@dataclass(frozen=True)
class _Told:
    """A micro-batch of a query, with the batches of ingest of which it read, by source."""

    batch: MicroBatch
    read: Sequence[tuple[int, _IngestRange]]


def _told_by_feed(spark: SparkSession, batch: MicroBatch, feed: str) -> _Told:
    """The history is in the order of event time, so its offsets are spread over its slices, and none of its events is late: the
    batch that reads the last slice has all of it, behind no watermark.
    """
    read, watermark = [], batch.late_watermark
    for part in batch.log_ranges:
        known = facts_at(spark, feed, part.after) if part.after is not None else None
        now = facts_at(spark, feed, part.through)
        if now is None or now.through is None:
            continue
        after = known.through if known is not None else None
        if after is None:
            watermark = None
        read.append((part.source, _IngestRange(now.generation, -1 if after is None else after, now.through)))
    return _Told(replace(batch, late_watermark=watermark), read)


def _told_by_log(
    spark: SparkSession, root: str, batch: MicroBatch, taken: Mapping[str, int], tables: Sequence[str]
) -> _Told | None:
    """By the transactions in the commits of the log: ingest puts a batch into a table in one commit.

    None where ingest has not entered all of that yet: its rows are in the log a moment before.
    """
    read = []
    for part in batch.log_ranges:
        path = next(
            path
            for path in (table_path(root, name) for name in (RAW_EVENTS, *tables))
            if table_id(spark, path) == part.table_id
        )
        through = newest_transaction(spark, path, part.through, query=INGEST)
        if through is None:
            continue
        application, newest = through
        if newest > taken.get(application, -1):
            return None
        before = newest_transaction(spark, path, part.after, query=INGEST) if part.after is not None else None
        after = before[1] if before is not None and before[0] == application else -1
        read.append((part.source, _IngestRange(application.partition(":")[2], after, newest)))
    return _Told(batch, read)


def _in_kafka_offsets(spark: SparkSession, root: str, told: Sequence[_Told]) -> list[MicroBatch]:
    """The micro-batches with what they read of the log told as what ingest had read for it."""
    parts = [part for one in told for _, part in one.read]
    ledger = table_path(root, BATCH_LEDGER)
    spans = _spans(spark.read.format("delta").load(ledger), parts) if parts else {}
    return [
        replace(
            one.batch,
            ranges=(
                *one.batch.ranges,
                *(
                    OffsetRange(source, *place, *span)
                    for source, part in one.read
                    for place, span in spans[part].items()
                ),
            ),
        )
        for one in told
    ]


def newest_batch(spark: SparkSession, root: str, query: str, generation: str) -> int | None:
    """The newest batch of the query that has been entered; None where none has."""
    path = table_path(root, BATCH_LEDGER)
    if newest_version(spark, path) is None:
        return None
    return transactions(spark, path).get(Transaction(query, generation, 0).application)


def spans_of_ingest(ledger: DataFrame, generation: str, *, after: int, through: int) -> _Spans:
    """Which offsets ingest has read in its batches after `after` up to and with `through`, by topic partition, half-open."""
    part = _IngestRange(generation, after, through)
    return _spans(ledger, [part])[part]


def _spans(ledger: DataFrame, parts: Sequence[_IngestRange]) -> dict[_IngestRange, _Spans]:
    """Of each of these the offsets: one span for each partition, as batches follow each other without a hole."""
    found: dict[_IngestRange, _Spans] = {part: {} for part in parts}
    ordered = [*found]
    asked = ledger.sparkSession.createDataFrame(
        [(number, part.generation, part.after, part.through) for number, part in enumerate(ordered)],
        "number int, of string, after bigint, through bigint",
    )
    is_inside = (
        (F.col("generation") == F.col("of"))
        & (F.col("batch_id") > F.col("after"))
        & (F.col("batch_id") <= F.col("through"))
    )
    rows = (
        ledger.where(F.col("query") == INGEST)
        .join(F.broadcast(asked), on=is_inside)
        .groupBy("number", "topic", "partition")
        .agg(F.min("first_offset").alias("first"), F.max("end_offset").alias("end"))
        .collect()
    )
    for row in sorted(rows):
        found[ordered[row["number"]]][row["topic"], row["partition"]] = (row["first"], row["end"])
    return found


def _entries(query: str, generation: str, batch: MicroBatch, counts: Fates | None) -> list[tuple[Any, ...]]:
    return [
        (
            query,
            generation,
            batch.batch_id,
            part.source,
            part.topic,
            part.partition,
            part.first,
            part.end,
            batch.late_watermark,
            *_fates_of(counts, part.topic, part.partition),
        )
        for part in batch.ranges
    ]


def _enter(spark: SparkSession, root: str, rows: list[tuple[Any, ...]], *, transaction: Transaction) -> None:
    if rows:
        entries = spark.createDataFrame(rows, SCHEMAS[BATCH_LEDGER]).coalesce(1)
        append(entries, table_path(root, BATCH_LEDGER), transaction=transaction)


def generations(spark: SparkSession, root: str, queries: Iterable[str]) -> dict[str, str]:
    """The present generation of each of the queries that has one."""
    found = {query: checkpoints.generation(spark, checkpoint_path(root, query)) for query in queries}
    return {query: generation for query, generation in found.items() if generation is not None}


def entries(spark: SparkSession, root: str, generations: Mapping[str, str]) -> DataFrame:
    """The ledger's rows of these generations of queries (BATCH_LEDGER)."""
    table = spark.read.format("delta").load(table_path(root, BATCH_LEDGER))
    is_present = F.lit(False)
    for query, generation in generations.items():
        is_present = is_present | ((F.col("query") == query) & (F.col("generation") == generation))
    return table.where(is_present)


def judged(ledger: DataFrame, finished: Mapping[str, int]) -> dict[str, int]:
    """By query the newest of its finished batches up to which ingest, too, has read all that the query has; -1: none.

    `ledger` has the entries of ingest and of the queries.
    """
    is_ingest = F.col("query") == INGEST
    log_ends = ledger.where(is_ingest).groupBy("topic", "partition").agg(F.max("end_offset").alias("log_end"))
    read = ledger.where(~is_ingest).join(F.broadcast(log_ends), on=["topic", "partition"], how="left")
    is_behind = F.col("end_offset") > F.coalesce("log_end", F.lit(0))
    unknown = read.where(is_behind).groupBy("query").agg(F.min("batch_id").alias("first_unknown"))
    first_unknown = {row["query"]: row["first_unknown"] for row in unknown.collect()}
    return {
        query: min(newest, first_unknown.get(query, newest + 1) - 1) for query, newest in finished.items()
    }


def within(ledger: DataFrame, judged: Mapping[str, int]) -> DataFrame:
    """The entries of the queries' batches up to the judged ones."""
    is_judged = F.lit(False)
    for query, batch_id in judged.items():
        is_judged = is_judged | ((F.col("query") == query) & (F.col("batch_id") <= batch_id))
    return ledger.where(is_judged)


def with_batch(
    events: DataFrame, ranges: DataFrame, *, columns: Sequence[str], how: str = "inner"
) -> DataFrame:
    """Each event with `columns` of the entries in whose range it lies; `ranges` are few enough to be broadcast.

    Both are cut into buckets of offsets first: joined by partition alone, each event would meet every batch.
    """
    bucket = F.shiftright(F.col("offset"), _BUCKET_BITS)
    first, last = (
        F.shiftright(F.col("first_offset"), _BUCKET_BITS),
        F.shiftright(F.col("end_offset") - 1, _BUCKET_BITS),
    )
    spread = ranges.select(
        F.col("topic").alias("range_topic"),
        F.col("partition").alias("range_partition"),
        "first_offset",
        "end_offset",
        *columns,
        F.explode(F.sequence(first, last)).alias("range_bucket"),
    )
    is_near = (
        (F.col("topic") == F.col("range_topic"))
        & (F.col("partition") == F.col("range_partition"))
        & (bucket == F.col("range_bucket"))
    )
    is_inside = (F.col("offset") >= F.col("first_offset")) & (F.col("offset") < F.col("end_offset"))
    joined = events.join(F.broadcast(spread), on=is_near & is_inside, how=how)
    return joined.drop("range_topic", "range_partition", "range_bucket", "first_offset", "end_offset")


def _fates_of(counts: Fates | None, topic: str, partition: int) -> tuple[int | None, ...]:
    if counts is None:
        return (None, None, None)
    known = counts.get((topic, partition), {})
    return tuple(known.get(fate, 0) for fate in (ACCEPTED, DEAD, TOMBSTONE))
