"""Where records and events come from: Kafka, as a stream, and the log, as a stream or at one table version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import catalog
from pipeline.contracts import ORDERS, PRODUCTS, RECORD_IDENTITY, REPAIRED, TEXT_LINES
from pipeline.delta_log import bytes_per_row, has_only_grown, newest_version, table_property
from pipeline.errors import ConfigurationError
from pipeline.kafka_login import require_encryption
from pipeline.kafka_topics import Topics
from pipeline.kinds import KINDS, Kind
from pipeline.settings import Settings
from pipeline.tables import RAW_EVENTS, REPAIRS, table_path
from pipeline.transforms.decode import accepted_events, classify, text_lines

__all__ = [
    "STREAMED",
    "has_change_feed",
    "kafka_options",
    "kafka_topics",
    "kind_of_topic",
    "read_events",
    "read_version",
    "stream_of_kafka",
    "stream_of_log",
    "stream_records",
    "table_version",
    "with_kind",
]

_CHANGE_FEED = "delta.enableChangeDataFeed"
STREAMED = {_CHANGE_FEED: "true"}
"""Properties of a table that views stream. Its change feed costs a table that is appended to nothing, and is admitted file by file: of ingest each commit is one."""
_WHOLE_VERSIONS = 2**31 - 1
"""Files of the log in a micro-batch. The ledger tells what a batch has read by versions, so none may end inside of one."""
_MOST_COMMITS = 2_000
"""Looked at, to see whether a query that begins can be given them one by one."""
_FEED_COLUMNS = ("_change_type", "_commit_version", "_commit_timestamp")


def kind_of_topic(settings: Settings) -> Mapping[str, str]:
    """Which kind of event a topic holds."""
    topics, more = settings.kafka.topics, settings.kafka.extension_topics
    own = {topics.orders: ORDERS, topics.products: PRODUCTS, topics.text_lines: TEXT_LINES}
    added = [name for name in catalog.kinds(settings) if name not in KINDS]
    for name in more:
        if name not in added:
            raise ConfigurationError(
                f"kafka.extension_topics names {name!r}, which is no kind of an extension; there are: {', '.join(added) or 'none'}.",
                key=f"kafka.extension_topics.{name}",
            )
    found = {**own, **{more.get(name, name): name for name in added}}
    if len(found) < len(own) + len(added) or topics.word_counts_output in found:
        raise ConfigurationError(
            f"two kinds of events have the same topic; each needs one of its own: {', '.join(found)}.",
            key="kafka.extension_topics",
        )
    return found


def kafka_options(settings: Settings) -> Mapping[str, str]:
    """The `kafka.*` options for every client. Raises ConfigurationError for plain text over a network that nobody has allowed."""
    kafka = settings.kafka
    require_encryption(kafka.bootstrap_servers, kafka.options, is_plaintext_allowed=kafka.allow_plaintext)
    return kafka.options


def kafka_topics(settings: Settings, kinds: Sequence[str]) -> Topics:
    """The topics of these kinds, and how they are reached."""
    names = sorted(topic for topic, kind in kind_of_topic(settings).items() if kind in kinds)
    return Topics(names, settings.kafka.bootstrap_servers, kafka_options(settings) if names else {})


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
        .options(**kafka_options(settings))
        .load()
    )
    return records.select(
        "topic", "partition", "offset", F.col("timestamp").alias("kafka_timestamp"), "key", "value", "headers"
    ).transform(with_kind, kinds=known)


def stream_of_kafka(spark: SparkSession, settings: Settings, kind: str) -> DataFrame:
    """The accepted events of one kind as they arrive in Kafka."""
    records = stream_records(spark, settings, [kind], max_offsets=settings.speed.max_offsets_per_trigger)
    return _accepted(records, catalog.kinds(settings)[kind])


def stream_of_log(spark: SparkSession, settings: Settings, kind: str, *, has_begun: bool) -> DataFrame:
    """The accepted events of one kind as ingest appends them to the log, in whole commits of its.

    A micro-batch takes about `speed.max_offsets_per_trigger` of them. What is not appended by ingest no stream meets: a repaired
    dead letter is the batch layer's. Text has no typed table of its own: its bytes are the event.
    """
    known = catalog.kinds(settings)[kind]
    path = table_path(settings.lake.root, known.table)
    log = _appended(spark, path, has_begun=has_begun, max_events=settings.speed.max_offsets_per_trigger)
    if not known.is_text:
        return log
    return text_lines(log.transform(with_kind, kinds=_topics_of(settings, kind)))


def _appended(spark: SparkSession, path: str, *, has_begun: bool, max_events: int) -> DataFrame:
    """The rows that come to the table, commit by commit.

    A query that begins where commits are no longer there one by one takes what the table holds in its first micro-batch, whatever its
    size. A table that was made without a change feed has none of its first versions: there each micro-batch takes all there is.
    """
    stream = spark.readStream.format("delta")
    if not has_change_feed(spark, path):
        return stream.option("maxFilesPerTrigger", _WHOLE_VERSIONS).load(path)
    stream = stream.option("readChangeFeed", "true")
    if has_begun or has_only_grown(spark, path, most_commits=_MOST_COMMITS):
        stream = stream.option("startingVersion", 0)
        stream = stream.option("maxBytesPerTrigger", max_events * bytes_per_row(spark, path))
    else:
        stream = stream.option("maxFilesPerTrigger", _WHOLE_VERSIONS)
    return stream.load(path).where(F.col("_change_type") == "insert").drop(*_FEED_COLUMNS)


def has_change_feed(spark: SparkSession, path: str) -> bool:
    """Whether the table, which must be there, was made to be streamed by its changes."""
    return table_property(spark, path, _CHANGE_FEED) == "true"


def read_events(
    spark: SparkSession,
    settings: Settings,
    kind: str,
    *,
    version: int,
    origin: str = "typed",
    repairs: int | None = None,
) -> DataFrame:
    """The accepted events of one kind in the log at one version of their table, repaired dead letters among them.

    `origin` typed reads them as they were written, raw decodes the bytes again; `version` is of the table read. Bytes
    (and text is nothing but bytes) are patched by version `repairs` of the repairs; None where there are none.
    """
    root, known = settings.lake.root, catalog.kinds(settings)[kind]
    if origin == "typed" and not known.is_text:
        return read_version(spark, table_path(root, known.table), version)
    records = read_version(spark, table_path(root, RAW_EVENTS), version)
    if repairs is not None:
        records = _patched(records, read_version(spark, table_path(root, REPAIRS), repairs))
    return _accepted(records.transform(with_kind, kinds=_topics_of(settings, kind)), known)


def _accepted(records: DataFrame, kind: Kind) -> DataFrame:
    return text_lines(records) if kind.is_text else accepted_events(classify(records, [kind]), kind)


def _patched(records: DataFrame, repairs: DataFrame) -> DataFrame:
    """The records (RAW_EVENTS), those that have been repaired with the value that their patch gives them."""
    repaired = repairs.where(F.col("status") == REPAIRED).select(*RECORD_IDENTITY, "repaired_value")
    joined = records.join(repaired, on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn("value", F.coalesce("repaired_value", "value")).select(*records.columns)


def _topics_of(settings: Settings, kind: str) -> Mapping[str, str]:
    return {topic: name for topic, name in kind_of_topic(settings).items() if name == kind}


def read_version(spark: SparkSession, path: str, version: int) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", version).load(path)


def table_version(spark: SparkSession | None, path: str) -> int | None:
    """The newest version of the table; None where there is no table."""
    return newest_version(spark, path)
