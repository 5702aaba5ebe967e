"""How far each query is behind, and what it takes to catch up at the pace of its last batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

from pipeline import catalog, checkpoints, versions
from pipeline.delta_log import newest_version
from pipeline.errors import CheckpointDamaged, DependencyError, KafkaFailed
from pipeline.kafka_offsets import Held, can_be_asked
from pipeline.kafka_topics import describe
from pipeline.observe import observed
from pipeline.settings import Settings
from pipeline.sources import kafka_topics
from pipeline.standing import Kafka, Query, Standing, ask_kafka, standing
from pipeline.stopping import running_queries
from pipeline.tables import BATCH_METRICS, checkpoint_path, table_path

__all__ = ["CatchUp", "catch_ups"]

_MOST_BATCHES = 20


@dataclass(frozen=True)
class CatchUp:
    """What the query has yet to read, and how long that takes; what is not known is None.

    `is_held`: Kafka holds every record that comes next. `records_per_second` is the pace of the last batches that read
    anything, while they worked. `expires_in_seconds`: the oldest unread record is kept for so long still.
    """

    is_running: bool
    lag_records: int | None = None
    lag_seconds: float | None = None
    is_held: bool | None = None
    expires_in_seconds: float | None = None
    records_per_second: float | None = None
    batches: int | None = None
    seconds: float | None = None

    @property
    def may_expire(self) -> bool:
        """Whether Kafka may forget records before they are read, at this pace."""
        return (
            self.seconds is not None
            and self.expires_in_seconds is not None
            and self.seconds > self.expires_in_seconds
        )


def catch_ups(
    spark: SparkSession, settings: Settings, queries: Sequence[Query]
) -> tuple[dict[str, CatchUp], Sequence[str]]:
    """By the query's name; and what Kafka's topics are warned of."""
    kafka, now = _kafka(spark, settings, queries), datetime.now(timezone.utc)
    running = running_queries(settings.lake.root, spark=spark)
    paces = _paces(spark, settings, queries)
    found = {}
    for query in queries:
        is_running = query.name in running
        known = standing(spark, settings, query, is_running=is_running, kafka=kafka, now=now)
        is_of_kafka = query.view is None or versions.source_of(spark, settings, query.view) == "kafka"
        is_told = is_of_kafka and kafka.silence is None and known.problem is None
        most = settings.speed if query.view else settings.ingest
        found[query.name] = _catch_up(
            known,
            pace=paces.get(query.name),
            most_records=most.max_offsets_per_trigger,
            is_held=known.expired_records == 0 if is_told else None,
        )
    return found, kafka.warnings


def _catch_up(known: Standing, *, pace: float | None, most_records: int, is_held: bool | None) -> CatchUp:
    lag, keeps, age = known.lag_records, known.retention_seconds, known.lag_seconds
    return CatchUp(
        is_running=known.is_running,
        lag_records=lag,
        lag_seconds=age,
        is_held=is_held,
        expires_in_seconds=keeps - age if keeps is not None and age is not None and lag else None,
        records_per_second=pace,
        batches=None if lag is None else math.ceil(lag / most_records),
        seconds=lag / pace if lag is not None and pace else None,
    )


def _kafka(spark: SparkSession, settings: Settings, queries: Sequence[Query]) -> Kafka:
    """What Kafka holds; where only Spark's own client may ask it, that tells the offsets and no times."""
    told = ask_kafka(spark, settings)
    if told.silence is None or can_be_asked(settings.kafka.options):
        return told
    ends = {}
    try:
        topics = describe(spark, kafka_topics(settings, [*catalog.kinds(settings)]))
        for query in queries:
            offsets = checkpoints.next_offsets(spark, checkpoint_path(settings.lake.root, query.name))
            ends[query.name] = {(topic, partition): offset for topic, partition, offset in offsets}
    except (DependencyError, KafkaFailed, CheckpointDamaged):
        return told
    held = {
        (name, partition): Held(first, end, None)
        for name, topic in topics.items()
        for partition, (first, end) in topic.offsets.items()
    }
    return Kafka(ends, held)


def _paces(spark: SparkSession, settings: Settings, queries: Sequence[Query]) -> Mapping[str, float]:
    """Records a second by query: of its newest batches, else of those of another version of its view, else of its last one."""
    measured = _measured(spark, settings.lake.root)
    found = {}
    for query in queries:
        name = f"{query.view.name}_v" if query.view else query.name
        alike = [pace for other, pace in measured.items() if other.startswith(name)]
        noted = observed(spark, settings.lake.root, query.name)
        if query.name in measured or alike:
            found[query.name] = measured.get(query.name, min(alike, default=0.0))
        elif noted is not None and noted.records_read and noted.duration_ms:
            found[query.name] = noted.records_read / noted.duration_ms * 1000
    return found


def _measured(spark: SparkSession, root: str) -> dict[str, float]:
    path = table_path(root, BATCH_METRICS)
    if newest_version(spark, path) is None:
        return {}
    newest_first = Window.partitionBy("query").orderBy(F.desc("started_at"), F.desc("batch_id"))
    batches = spark.read.format("delta").load(path).where("records_read > 0 AND duration_ms > 0")
    recent = batches.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= _MOST_BATCHES)
    sums = recent.groupBy("query").agg(
        F.sum("records_read").alias("records"), F.sum("duration_ms").alias("ms")
    )
    return {row["query"]: row["records"] / row["ms"] * 1000 for row in sums.collect()}
