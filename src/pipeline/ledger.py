"""`batch_ledger`: what each micro-batch read, behind which watermark, and what became of it; written exactly once.

Ingest enters a batch last, so what is in the ledger is in the tables. What a speed query has read stands in its checkpoint
before it runs, and is entered from there, some batches at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import checkpoints
from pipeline.checkpoints import MicroBatch
from pipeline.contracts import ACCEPTED, DEAD, FATES, TOMBSTONE
from pipeline.failpoints import failpoint
from pipeline.sinks import Transaction, append, commit_lock, transactions
from pipeline.tables import BATCH_LEDGER, SCHEMAS, checkpoint_path, table_path

__all__ = ["Fates", "catch_up", "fates", "read_ranges", "record"]

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


def catch_up(spark: SparkSession, root: str, query: str) -> None:
    """Enter the finished batches of a speed query that the ledger does not have yet.

    Their checkpoint tells all there is to say, and Spark keeps the last 100 batches in it: a commit for each of them
    would only slow the query down. The fates stay null: the query reads what ingest has already judged.
    """
    checkpoint = checkpoint_path(root, query)
    generation, newest = (
        checkpoints.generation(spark, checkpoint),
        checkpoints.last_committed_batch(spark, checkpoint),
    )
    if generation is None or newest is None:
        return
    path = table_path(root, BATCH_LEDGER)
    transaction = Transaction(query, generation, newest)
    with commit_lock(path):
        known = transactions(spark, path).get(transaction.application, -1)
        batches = checkpoints.finished_since(spark, checkpoint, known)
        rows = [row for batch in batches for row in _entries(query, generation, batch, None)]
        failpoint("ledger: read from the checkpoint")
        _enter(spark, root, rows, transaction=transaction)


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


def read_ranges(spark: SparkSession, root: str, query: str, *, source: int) -> DataFrame:
    """What one source of the query's present generation has read: batch_id, topic, partition, first_offset, end_offset, watermark."""
    entries = spark.read.format("delta").load(table_path(root, BATCH_LEDGER))
    is_ours = (F.col("query") == query) & (F.col("source") == source)
    is_present = F.col("generation") == checkpoints.generation(spark, checkpoint_path(root, query))
    return entries.where(is_ours & is_present).select(
        "batch_id", "topic", "partition", "first_offset", "end_offset", "watermark"
    )


def _fates_of(counts: Fates | None, topic: str, partition: int) -> tuple[int | None, ...]:
    if counts is None:
        return (None, None, None)
    known = counts.get((topic, partition), {})
    return tuple(known.get(fate, 0) for fate in (ACCEPTED, DEAD, TOMBSTONE))
