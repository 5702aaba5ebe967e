"""Where records and events come from: Kafka, as a stream, and the log, as a stream or at one table version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.contracts import ORDERS, PRODUCTS, TEXT_LINES
from pipeline.kafka_topics import Topics
from pipeline.settings import Settings
from pipeline.tables import ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, table_path
from pipeline.transforms.decode import accepted_orders, accepted_products, classify, text_lines

__all__ = [
    "kafka_topics",
    "kind_of_topic",
    "read_events",
    "read_version",
    "stream_events",
    "stream_records",
    "table_version",
    "with_kind",
]

_ACCEPTED = {ORDERS: accepted_orders, PRODUCTS: accepted_products, TEXT_LINES: text_lines}
_TABLES = {ORDERS: ORDER_EVENTS, PRODUCTS: PRODUCT_EVENTS, TEXT_LINES: RAW_EVENTS}


def kind_of_topic(settings: Settings) -> Mapping[str, str]:
    """Which kind of event a topic holds."""
    topics = settings.kafka.topics
    return {topics.orders: ORDERS, topics.products: PRODUCTS, topics.text_lines: TEXT_LINES}


def kafka_topics(settings: Settings, kinds: Sequence[str]) -> Topics:
    """The topics of these kinds, and how they are reached."""
    names = sorted(topic for topic, kind in kind_of_topic(settings).items() if kind in kinds)
    return Topics(names, settings.kafka.bootstrap_servers, settings.kafka.options)


def with_kind(records: DataFrame, *, kinds: Mapping[str, str]) -> DataFrame:
    """The records of the given topics, each with its `kind`."""
    kind = F.lit(None).cast("string")
    for topic, name in kinds.items():
        kind = F.when(F.col("topic") == topic, F.lit(name)).otherwise(kind)
    return records.where(F.col("topic").isin(*kinds)).withColumn("kind", kind)


def stream_records(
    spark: SparkSession, settings: Settings, kinds: Sequence[str], *, max_offsets: int
) -> DataFrame:
    """Kafka's records of these kinds of topics, from their beginning, with the columns of `raw_events` and `kind`.

    Committed transactions only; offsets that Kafka no longer holds are an error, not a gap.
    """
    known = {topic: kind for topic, kind in kind_of_topic(settings).items() if kind in kinds}
    records = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", ",".join(sorted(known)))
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "true")
        .option("includeHeaders", "true")
        .option("maxOffsetsPerTrigger", max_offsets)
        .option("kafka.isolation.level", "read_committed")
        .option("kafka.max.poll.records", 10_000)  # 500 by default: half the speed
        .options(**settings.kafka.options)
        .load()
    )
    return records.select(
        "topic", "partition", "offset", F.col("timestamp").alias("kafka_timestamp"), "key", "value", "headers"
    ).transform(with_kind, kinds=known)


def stream_events(spark: SparkSession, settings: Settings, kind: str) -> DataFrame:
    """The accepted events of one kind as they arrive, from Kafka or, by `speed.source`, from the log."""
    if settings.speed.source == "log":
        return _stream_of_the_log(spark, settings, kind)
    records = stream_records(spark, settings, [kind], max_offsets=settings.speed.max_offsets_per_trigger)
    return _ACCEPTED[kind](classify(records))


def _stream_of_the_log(spark: SparkSession, settings: Settings, kind: str) -> DataFrame:
    log = spark.readStream.format("delta").load(table_path(settings.lake.root, _TABLES[kind]))
    return _of_the_log(log, settings, kind)


def read_events(
    spark: SparkSession, settings: Settings, kind: str, *, version: int, origin: str = "typed"
) -> DataFrame:
    """The accepted events of one kind in the log at one version of their table.

    `origin` typed reads them as ingest wrote them, raw decodes the bytes again; `version` is of the table read.
    """
    if origin == "raw":
        raw = read_version(spark, table_path(settings.lake.root, RAW_EVENTS), version)
        return _ACCEPTED[kind](classify(raw.transform(with_kind, kinds=_topics_of(settings, kind))))
    return _of_the_log(
        read_version(spark, table_path(settings.lake.root, _TABLES[kind]), version), settings, kind
    )


def _of_the_log(rows: DataFrame, settings: Settings, kind: str) -> DataFrame:
    """Text has no typed table of its own: its bytes are the event."""
    if kind != TEXT_LINES:
        return rows
    return text_lines(classify(rows.transform(with_kind, kinds=_topics_of(settings, kind))))


def _topics_of(settings: Settings, kind: str) -> Mapping[str, str]:
    return {topic: name for topic, name in kind_of_topic(settings).items() if name == kind}


def read_version(spark: SparkSession, path: str, version: int) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", version).load(path)


def table_version(spark: SparkSession, path: str) -> int | None:
    """The newest version of the table; None where there is no table."""
    if not DeltaTable.isDeltaTable(spark, path):
        return None
    newest: Column = F.max("version")
    return int(DeltaTable.forPath(spark, path).history(1).agg(newest).collect()[0][0])
