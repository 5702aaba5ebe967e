"""Every offset of every partition: delivered, in the log once, with one fate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import catalog, guards, kafka_offsets, ledger
from pipeline.audit.accounts import Account, Fault, fault_at
from pipeline.audit.runs import length, runs_of, without
from pipeline.audit.spans import MOST_ROWS, Span, as_table
from pipeline.contracts import RECORD_IDENTITY, TEXT_LINES
from pipeline.delta_log import newest_version
from pipeline.errors import DependencyError, KafkaFailed
from pipeline.evidence import Evidence, identified_events
from pipeline.kafka_offsets import Partition, Run
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table
from pipeline.sources import kafka_options, kind_of_topic, read_version
from pipeline.tables import (
    DEAD_LETTERS,
    ERASED_RECORDS,
    OFFSET_GAPS,
    RAW_EVENTS,
    REPAIRS,
    SCHEMAS,
    SKIPPED_RECORDS,
    checkpoint_path,
    table_path,
)
from pipeline.transforms.decode import is_accepted_text

__all__ = ["Kafka", "account_partitions", "ask_bounds"]


_MARKS = ("raw", "tombstone", "accepted", "dead", "repaired", "discarded")


@dataclass
class Kafka:
    """What Kafka says, or why it says nothing. `bounds` are of the topics that ingest has read, `replaced` of others of their name."""

    bounds: Mapping[Partition, Run] = field(default_factory=dict)
    silence: str | None = None
    replaced: Mapping[Partition, Run] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def ask_bounds(spark: SparkSession, settings: Settings) -> Kafka:
    options = kafka_options(settings)
    if not kafka_offsets.can_be_asked(options):
        return Kafka(silence="Kafka was not asked: its clients need a login that only Spark's reader has.")
    try:
        topics = [*kind_of_topic(settings)]
        servers = settings.kafka.bootstrap_servers
        held = kafka_offsets.held_by_kafka(servers, topics, options=options)
        told = kafka_offsets.topic_settings(servers, topics, options=options)
        checkpoint = checkpoint_path(settings.lake.root, ledger.INGEST)
        replaced = guards.replaced_topics(
            spark, checkpoint=checkpoint, ids=kafka_offsets.ids(servers, topics, options=options)
        )
        runs = {place: (one.first, one.end) for place, one in held.items()}
        return Kafka(
            bounds={place: run for place, run in runs.items() if place[0] not in replaced},
            replaced={place: run for place, run in runs.items() if place[0] in replaced},
            warnings=kafka_offsets.warnings(told, held),
        )
    except (DependencyError, KafkaFailed) as error:
        return Kafka(silence=f"Kafka was not asked: {error.message}")


def account_partitions(
    spark: SparkSession,
    settings: Settings,
    found: Evidence,
    ingested: Sequence[Span],
    kafka: Kafka,
) -> tuple[list[Account], list[Fault]]:
    root = settings.lake.root
    spans = {reading.place: reading.span for reading in ingested}
    addresses = _addresses(spark, settings, found).join(
        F.broadcast(as_table(spark, ingested).select("topic", "partition", "first", "end")),
        on=["topic", "partition"],
        how="left",
    )
    judged = addresses.where(F.col("offset") < F.coalesce("end", F.lit(0))).withColumn("fault", _fault_of())
    counts = {
        (row["topic"], row["partition"]): row.asDict()
        for row in judged.groupBy("topic", "partition").agg(*_counts()).collect()
    }
    faults = _address_faults(judged) if any(row["wrong"] for row in counts.values()) else []
    missing = {
        place: span
        for place, span in spans.items()
        if span[1] - span[0] > (counts[place]["raw_events"] if place in counts else 0)
    }
    holes = _holes(spark, root, missing)
    skips, erasures = (
        (_named(spark, root, name) if holes else {}) for name in (SKIPPED_RECORDS, ERASED_RECORDS)
    )
    unerased = {place: without(runs, erasures.get(place, ())) for place, runs in holes.items()}
    unskipped = {place: without(runs, skips.get(place, ())) for place, runs in unerased.items()}
    gaps, lost = _told_apart(
        spark, settings, {place: runs for place, runs in unskipped.items() if runs}, kafka
    )
    distinct = _distinct(spark, settings, found, ingested)
    accounts = []
    for place in sorted({*spans, *kafka.bounds}):
        first, end = spans.get(place, (0, 0))
        row = counts.get(place, {})
        accepted = row.get("accepted", 0)
        held = kafka.bounds.get(place)
        unique = accepted if _kind(settings, place) == TEXT_LINES else distinct.get(place, 0)
        gap_count = length(gaps.get(place, ()))
        accounts.append(
            Account(
                topic=place[0],
                partition=place[1],
                first_offset=first,
                end_offset=end,
                gaps=gap_count,
                delivered=end - first - gap_count,
                raw_events=row.get("raw_events", 0),
                skipped=length(unerased.get(place, ())) - length(unskipped.get(place, ())),
                erased=length(holes.get(place, ())) - length(unerased.get(place, ())),
                accepted=accepted,
                dead=row.get("dead", 0),
                repaired=row.get("repaired", 0),
                discarded=row.get("discarded", 0),
                tombstones=row.get("tombstones", 0),
                distinct=unique,
                duplicates=accepted - unique,
                behind=kafka_offsets.behind({place: end}, {place: held}) if held else None,
            )
        )
    return accounts, [*faults, *lost, *_against_kafka(spans, kafka)]


def _addresses(spark: SparkSession, settings: Settings, found: Evidence) -> DataFrame:
    """One row per address that any table of the log has: how often each of them has it, and what was decided on it."""
    root, versions = settings.lake.root, found.log.versions
    raw = read_version(spark, table_path(root, RAW_EVENTS), versions[RAW_EVENTS])
    has_value = F.col("value").isNotNull()
    is_text = F.col("topic") == settings.kafka.topics.text_lines
    parts = [
        _marked(
            raw, raw=F.lit(True), tombstone=~has_value, accepted=is_text & has_value & is_accepted_text()
        ),
        *[
            _marked(read_version(spark, table_path(root, name), versions[name]), accepted=F.lit(True))
            for name in catalog.typed_tables(settings)
        ],
        _marked(spark.read.format("delta").load(table_path(root, DEAD_LETTERS)), dead=F.lit(True)),
    ]
    if newest_version(spark, table_path(root, REPAIRS)) is not None:
        repairs = spark.read.format("delta").load(table_path(root, REPAIRS))
        status = F.col("status")
        parts.append(_marked(repairs, repaired=status == "repaired", discarded=status == "discarded"))
    by_address = reduce(DataFrame.unionByName, parts).groupBy(*RECORD_IDENTITY)
    counted = by_address.agg(*[F.count_if(name).alias(name) for name in _MARKS])
    is_typed = F.col("topic") != settings.kafka.topics.text_lines
    # A repaired one stays among the dead, and its event is beside the accepted: it has one fate, dead, and its repair.
    is_replayed = (F.col("repaired") > 0) & (F.col("dead") > 0) & (F.col("accepted") > 0) & is_typed
    return counted.withColumns(
        {
            "accepted": F.col("accepted") - F.when(is_replayed, 1).otherwise(0),
            "is_unreplayed": is_typed & (F.col("repaired") > 0) & (F.col("accepted") == 0),
        }
    )


def _marked(rows: DataFrame, **marks: Column) -> DataFrame:
    others = {name: F.lit(False) for name in _MARKS if name not in marks}
    return rows.select(*RECORD_IDENTITY, *[(marks | others)[name].alias(name) for name in _MARKS])


def _fault_of() -> Column:
    """What is wrong with an address; null where nothing is."""
    fates = F.col("tombstone") + F.col("accepted") + F.col("dead")
    return (
        F.when(F.col("offset") < F.col("first"), "unasked")
        .when(F.col("raw") == 0, "not_in_raw")
        .when(F.col("raw") > 1, "raw_repeated")
        .when(fates == 0, "no_fate")
        .when(fates > 1, "several_fates")
        .when(F.col("is_unreplayed"), "repair_missing")
    )


def _counts() -> list[Column]:
    is_inside = F.col("offset") >= F.col("first")
    counts = {
        "raw_events": is_inside & (F.col("raw") > 0),
        "tombstones": is_inside & (F.col("tombstone") > 0),
        "accepted": is_inside & (F.col("accepted") > 0),
        "dead": is_inside & (F.col("dead") > 0),
        "repaired": is_inside & (F.col("repaired") > 0),
        "discarded": is_inside & (F.col("discarded") > 0),
        "wrong": F.col("fault").isNotNull(),
    }
    return [F.count_if(which).alias(name) for name, which in counts.items()]


def _address_faults(judged: DataFrame) -> list[Fault]:
    rows = (
        judged.where(F.col("fault").isNotNull())
        .select("fault", *RECORD_IDENTITY)
        .orderBy(*RECORD_IDENTITY)
        .limit(MOST_ROWS)
        .collect()
    )
    offsets: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for row in rows:
        offsets[row["fault"], row["topic"], row["partition"]].append(row["offset"])
    return [
        fault_at(fault, ledger.INGEST, (topic, partition), runs_of(numbers))
        for (fault, topic, partition), numbers in offsets.items()
    ]


def _holes(spark: SparkSession, root: str, spans: Mapping[Partition, Run]) -> dict[Partition, list[Run]]:
    """Inside these spans the runs of offsets for which raw_events has no row."""
    if not spans:
        return {}
    readings = [Span(ledger.INGEST, 0, place, span) for place, span in spans.items()]
    expected = as_table(spark, readings).select("topic", "partition", "first", "end")
    raw = spark.read.format("delta").load(table_path(root, RAW_EVENTS)).select(*RECORD_IDENTITY)
    inside = raw.join(F.broadcast(expected), on=["topic", "partition"]).where(
        (F.col("offset") >= F.col("first")) & (F.col("offset") < F.col("end"))
    )
    # The ends of the span stand as rows of their own, so that holes at either end are seen too.
    edges = expected.select(
        "topic", "partition", F.explode(F.array(F.col("first") - 1, F.col("end"))).alias("offset")
    )
    in_order = Window.partitionBy("topic", "partition").orderBy("offset")
    stepped = (
        inside.select(*RECORD_IDENTITY)
        .unionByName(edges)
        .withColumn("before", F.lag("offset").over(in_order))
    )
    holes: dict[Partition, list[Run]] = defaultdict(list)
    is_hole = F.col("offset") - F.col("before") > 1
    for row in stepped.where(is_hole).orderBy(*RECORD_IDENTITY).limit(MOST_ROWS).collect():
        holes[row["topic"], row["partition"]].append((row["before"] + 1, row["offset"]))
    return dict(holes)


def _named(spark: SparkSession, root: str, table: str) -> dict[Partition, list[Run]]:
    """The records that a table names: those that ingest was told to go past, or that were erased."""
    path = table_path(root, table)
    if newest_version(spark, path) is None:
        return {}
    offsets: dict[Partition, list[int]] = defaultdict(list)
    for row in spark.read.format("delta").load(path).select(*RECORD_IDENTITY).distinct().collect():
        offsets[row["topic"], row["partition"]].append(row["offset"])
    return {place: runs_of(found) for place, found in offsets.items()}


def _told_apart(
    spark: SparkSession, settings: Settings, holes: Mapping[Partition, Sequence[Run]], kafka: Kafka
) -> tuple[dict[Partition, list[Run]], list[Fault]]:
    """Which of the offsets without a row are gaps, and what is wrong with the others.

    What Kafka has once said to be a gap is remembered: it will not be asked again, and it forgets.
    """
    if not holes:
        return {}, []
    path = table_path(settings.lake.root, OFFSET_GAPS)
    create_table(spark, path, SCHEMAS[OFFSET_GAPS])
    known: dict[Partition, list[Run]] = defaultdict(list)
    for row in spark.read.format("delta").load(path).collect():
        known[row["topic"], row["partition"]].append((row["first_offset"], row["end_offset"]))
    gaps: dict[Partition, list[Run]] = {}
    new: dict[Partition, list[Run]] = {}
    faults = []
    for place, runs in holes.items():
        unknown = without(runs, known[place])
        gaps[place] = without(runs, unknown)
        if place not in kafka.bounds:
            fault = "untold" if kafka.silence is None else "unproven"
            faults += [fault_at(fault, ledger.INGEST, place, unknown)] if unknown else []
            continue
        begin, _ = kafka.bounds[place]
        expired = without(unknown, [(begin, 2**63 - 1)])
        asked = without(unknown, expired)
        servers, options = settings.kafka.bootstrap_servers, kafka_options(settings)
        found = [*kafka_offsets.committed(servers, place, asked, options=options)] if asked else []
        lost = runs_of(found)
        new[place] = without(asked, lost)
        gaps[place] += new[place]
        faults += [
            fault_at(name, ledger.INGEST, place, runs)
            for name, runs in (("untold", expired), ("lost", lost))
            if runs
        ]
    now = datetime.now(timezone.utc)
    rows = [(*place, *run, now) for place, runs in new.items() for run in runs]
    if rows:
        with commit_lock(path):
            entries = spark.createDataFrame(rows, SCHEMAS[OFFSET_GAPS]).coalesce(1)
            entries.write.format("delta").mode("append").save(path)
    return gaps, faults


def _against_kafka(spans: Mapping[Partition, Run], kafka: Kafka) -> list[Fault]:
    """What was delivered against what Kafka holds; offsets that it no longer holds are fine where they were delivered."""
    faults = [
        fault_at("topic_replaced", ledger.INGEST, place, [run] if run[0] < run[1] else [])
        for place, run in sorted(kafka.replaced.items())
    ]
    for place, (begin, kafka_end) in kafka.bounds.items():
        if place not in spans:
            continue
        first, end = spans[place]
        if kafka_end < end:
            faults.append(fault_at("kafka_is_shorter", ledger.INGEST, place, [(kafka_end, end)]))
        unread = [run for run in ((begin, first), (end, begin)) if run[0] < run[1]]
        if unread:
            faults.append(fault_at("never_read", ledger.INGEST, place, unread))
    return faults


def _distinct(
    spark: SparkSession, settings: Settings, found: Evidence, ingested: Sequence[Span]
) -> dict[Partition, int]:
    """By partition the accepted events, text apart, that are the first of their identity in (partition, offset)."""
    told = identified_events(spark, settings, found).where(F.col("met_by").isNull())
    spans = F.broadcast(as_table(spark, ingested).select("topic", "partition", "end"))
    judged = told.join(spans, on=["topic", "partition"]).where(F.col("offset") < F.col("end"))
    firsts = judged.groupBy("topic", "key", "event_time").agg(
        F.min(F.struct("partition", "offset")).alias("first")
    )
    counts = firsts.groupBy("topic", F.col("first.partition").alias("partition")).count()
    return {(row["topic"], row["partition"]): row["count"] for row in counts.collect()}


def _kind(settings: Settings, place: Partition) -> str | None:
    return kind_of_topic(settings).get(place[0])
