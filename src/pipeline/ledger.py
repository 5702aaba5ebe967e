"""`batch_ledger`: what each micro-batch read, behind which watermark, and what became of it; written exactly once.

It is written last in a batch, so a batch that is in the ledger is in its tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.checkpoints import MicroBatch, generation
from pipeline.contracts import ACCEPTED, DEAD, FATES, TOMBSTONE
from pipeline.sinks import Transaction, append
from pipeline.tables import BATCH_LEDGER, SCHEMAS, checkpoint_path, table_path

__all__ = ["Fates", "fates", "read_ranges", "record"]

Fates = Mapping[tuple[str, int], Mapping[str, int]]
"""How many records met which fate, by topic and partition."""


def fates(classified: DataFrame) -> Fates:
    counts = [F.count_if(F.col("fate") == fate).alias(fate) for fate in FATES]
    rows = classified.groupBy("topic", "partition").agg(*counts).collect()
    return {(row["topic"], row["partition"]): {fate: row[fate] for fate in FATES} for row in rows}


def record(
    spark: SparkSession,
    root: str,
    batch: MicroBatch,
    *,
    transaction: Transaction,
    counts: Fates | None = None,
) -> None:
    """Enter the batch. Without `counts` the fates stay null: the query read records that ingest has already judged."""
    rows = [
        (
            transaction.query,
            transaction.generation,
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
    if not rows:
        return
    entries = spark.createDataFrame(rows, SCHEMAS[BATCH_LEDGER]).coalesce(1)
    append(entries, table_path(root, BATCH_LEDGER), transaction=transaction)


def read_ranges(spark: SparkSession, root: str, query: str, *, source: int) -> DataFrame:
    """What one source of the query's present generation has read: batch_id, topic, partition, first_offset, end_offset, watermark."""
    entries = spark.read.format("delta").load(table_path(root, BATCH_LEDGER))
    is_ours = (F.col("query") == query) & (F.col("source") == source)
    is_present = F.col("generation") == generation(spark, checkpoint_path(root, query))
    return entries.where(is_ours & is_present).select(
        "batch_id", "topic", "partition", "first_offset", "end_offset", "watermark"
    )


def _fates_of(counts: Fates | None, topic: str, partition: int) -> tuple[int | None, ...]:
    if counts is None:
        return (None, None, None)
    known = counts.get((topic, partition), {})
    return tuple(known.get(fate, 0) for fate in (ACCEPTED, DEAD, TOMBSTONE))
