"""Every Kafka offset accounted for: delivered, in the log once, with one fate; and each event counted by each query, or late.

What was delivered is told by the checkpoint and the ledger, whose ranges must follow each other without hole or overlap.
Tables may be ahead of that by a batch that is being written; what lies behind the newest finished batch is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import reduce

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import checkpoints, evidence, kafka_offsets, late, ledger, reconcile
from pipeline.console import step
from pipeline.contracts import ORDERS, PRODUCTS, RECORD_IDENTITY, TEXT_LINES
from pipeline.delta_log import newest_version
from pipeline.errors import KafkaUnreachable
from pipeline.evidence import Evidence, unrepaired
from pipeline.kafka_offsets import Partition, Run
from pipeline.published import events_of, seed_of
from pipeline.session import session, side_by_side
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table
from pipeline.sources import kind_of_topic, read_version
from pipeline.tables import (
    DEAD_LETTERS,
    OFFSET_GAPS,
    ORDER_EVENTS,
    PRODUCT_EVENTS,
    RAW_EVENTS,
    REPAIRS,
    SCHEMAS,
    SKIPPED_RECORDS,
    checkpoint_path,
    table_path,
)
from pipeline.transforms.decode import is_accepted_text
from pipeline.views import VIEWS

__all__ = ["Account", "Fault", "QueryAccount", "Report", "run"]

_MOST_ROWS = 100_000
_MOST_RUNS = 20

_FAULTS = {
    "not_in_ledger": "no batch in the ledger has read them, and the checkpoint says that they were read",
    "read_twice": "more than one batch in the ledger has read them",
    "lost": "Kafka holds a committed record there, raw_events does not",
    "untold": "raw_events has no row, and Kafka does not hold the offset any more to tell a gap from a loss",
    "unproven": "raw_events has no row, and Kafka could not be asked whether there is a record",
    "raw_repeated": "raw_events has them more than once",
    "not_in_raw": "a table of events has them, raw_events does not",
    "no_fate": "neither accepted nor dead nor a tombstone",
    "several_fates": "in more than one of accepted, dead, tombstone, or in one of them twice",
    "repair_missing": "repaired, but the table of events does not have them",
    "unasked": "raw_events has them, and they lie before the first offset that was delivered",
    "never_read": "Kafka held or holds them, and they were never delivered",
    "kafka_is_shorter": "delivered, but Kafka's partition ends before: the topic was made anew, or has lost records",
    "not_counted": "read by the query, and neither counted nor in late_events",
    "wrongly_late": "in late_events, and the query counted them, or never had to read them",
    "table_differs": "the query's table adds up to another number of events than it counted",
}
"""What can be wrong with offsets, by the name it has in the report."""


@dataclass(frozen=True)
class Fault:
    """Offsets of a partition that do not add up: which fault, of which query, how many, and the first runs of them."""

    fault: str
    query: str
    topic: str | None
    partition: int | None
    count: int
    offsets: Sequence[str] = ()
    detail: str = ""

    def __str__(self) -> str:
        where = self.query if self.topic is None else f"{self.query}, {self.topic}"
        where += "" if self.partition is None else f"-{self.partition}"
        named = f", offsets {', '.join(self.offsets)}" if self.offsets else ""
        return f"{self.fault}: {where}: {self.count}{named}: {self.detail or _FAULTS[self.fault]}"


@dataclass(frozen=True)
class Account:
    """A partition: delivered = raw_events + skipped; raw_events = accepted + dead + tombstones; accepted = distinct + duplicates.

    Offsets are half-open. `gaps` are offsets without a committed record, which were not delivered; `skipped` are records that
    Spark could not read and ingest was told to go past; `dead` includes those repaired or discarded since; `behind` is what Kafka holds and ingest has not read yet (None: Kafka was not asked).
    """

    topic: str
    partition: int
    first_offset: int
    end_offset: int
    gaps: int = 0
    delivered: int = 0
    raw_events: int = 0
    skipped: int = 0
    accepted: int = 0
    dead: int = 0
    repaired: int = 0
    discarded: int = 0
    tombstones: int = 0
    distinct: int = 0
    duplicates: int = 0
    behind: int | None = None


@dataclass(frozen=True)
class QueryAccount:
    """A speed query and topic: the distinct events it had to read = counted + late, up to batch `through_batch`."""

    query: str
    topic: str
    through_batch: int
    to_read: int
    counted: int
    late: int


@dataclass(frozen=True)
class Report:
    """The accounts, and what is wrong with them; `notes` say what could not be asked. All adds up where there are no faults."""

    partitions: Sequence[Account]
    queries: Sequence[QueryAccount]
    faults: Sequence[Fault]
    notes: Sequence[str] = ()

    def faults_of(self, account: Account | QueryAccount) -> list[Fault]:
        if isinstance(account, Account):
            about: tuple[object, ...] = (ledger.INGEST, account.topic, account.partition)
            return [one for one in self.faults if (one.query, one.topic, one.partition) == about]
        return [
            one for one in self.faults if one.query == account.query and one.topic in (None, account.topic)
        ]


@dataclass(frozen=True)
class _Reading:
    """A source of a query and partition, and the offsets that its checkpoint says were read."""

    query: str
    source: int
    place: Partition
    span: Run


@dataclass
class _Kafka:
    """What Kafka says, or why it says nothing."""

    bounds: Mapping[Partition, Run] = field(default_factory=dict)
    silence: str | None = None


def run(settings: Settings) -> Report:
    """Account for every offset up to the last complete batch. Raises RefusedToStart where nothing has been ingested."""
    spark = session(settings)
    # Before the ledger: what is finished then, the ledger has.
    ingested = _ingested(spark, settings)
    with step("audit: what the queries have read"):
        found = evidence.collect(spark, settings)
        if found.scopes:
            evidence.enter_late_events(spark, settings, found)
        kafka = _ask_bounds(settings)
        read = [*ingested, *_read_by_queries(spark, settings, found)]
        faults = _ledger_faults(spark, found, read)

    def of_offsets() -> Report:
        with step("audit: every offset and its fate"):
            accounts, more = _partitions(spark, settings, found, ingested, kafka)
            return Report(accounts, [], more)

    def of_queries() -> Report:
        with step("audit: every event and every query"):
            accounts, more = _queries(spark, settings, found, read)
            return Report([], accounts, more)

    offsets, queries = side_by_side(spark, [of_offsets, of_queries])
    return Report(
        offsets.partitions,
        queries.queries,
        [*faults, *offsets.faults, *queries.faults],
        notes=[kafka.silence] if kafka.silence else [],
    )


def _ingested(spark: SparkSession, settings: Settings) -> list[_Reading]:
    """What ingest has read of each partition, by its checkpoint."""
    checkpoint = checkpoint_path(settings.lake.root, ledger.INGEST)
    newest = checkpoints.last_committed_batch(spark, checkpoint)
    return [] if newest is None else _by_checkpoint(spark, checkpoint, ledger.INGEST, newest)


def _read_by_queries(spark: SparkSession, settings: Settings, found: Evidence) -> list[_Reading]:
    """What each query has read up to its judged batch: by its checkpoint, or by the ledger where it reads the log."""
    read = []
    for scope in found.scopes.values():
        query = scope.view.query
        told = _by_checkpoint(spark, checkpoint_path(settings.lake.root, query), query, scope.judged)
        read += told or _by_ledger(found, settings, scope)
    return read


def _by_checkpoint(spark: SparkSession, checkpoint: str, query: str, batch_id: int) -> list[_Reading]:
    return [
        _Reading(query, source, place, (first, end))
        for source, ends in enumerate(checkpoints.ends(spark, checkpoint, batch_id))
        for began in [checkpoints.began(spark, checkpoint, source)]
        for place, end in sorted(ends.items())
        for first in [began.get(place, 0)]
    ]


def _by_ledger(found: Evidence, settings: Settings, scope: late.Scope) -> list[_Reading]:
    """Ingest reads all topics in one batch, so a batch of a query of the log names topics that its table does not hold."""
    kinds = kind_of_topic(settings)
    spans = (
        ledger.within(found.entries, {scope.view.query: scope.judged})
        .groupBy("source", "topic", "partition")
        .agg(F.min("first_offset").alias("first"), F.max("end_offset").alias("end"))
        .collect()
    )
    return [
        _Reading(
            scope.view.query, row["source"], (row["topic"], row["partition"]), (row["first"], row["end"])
        )
        for row in spans
        if kinds.get(row["topic"]) == scope.view.reads[row["source"]].kind
    ]


def _ask_bounds(settings: Settings) -> _Kafka:
    if not kafka_offsets.can_be_asked(settings.kafka.options):
        return _Kafka(silence="Kafka was not asked: its clients need a login that only Spark's reader has.")
    try:
        topics = [*kind_of_topic(settings)]
        return _Kafka(kafka_offsets.bounds(settings.kafka.bootstrap_servers, topics))
    except KafkaUnreachable as error:
        return _Kafka(silence=f"Kafka was not asked: {error.message}")


def _ledger_faults(spark: SparkSession, found: Evidence, read: Sequence[_Reading]) -> list[Fault]:
    """Holes and overlaps of the ledger's ranges within what the checkpoint says was read."""
    if not read:
        return []
    within = Window.partitionBy("query", "source", "topic", "partition").orderBy("first_offset", "end_offset")
    expected = _as_table(spark, read)
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
        _MOST_ROWS
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
        _fault(fault, _shown(query), (topic, partition), found_runs)
        for (fault, query, topic, partition), found_runs in sorted(runs.items())
    ]


def _partitions(
    spark: SparkSession,
    settings: Settings,
    found: Evidence,
    ingested: Sequence[_Reading],
    kafka: _Kafka,
) -> tuple[list[Account], list[Fault]]:
    root = settings.lake.root
    spans = {reading.place: reading.span for reading in ingested}
    addresses = _addresses(spark, settings, found).join(
        F.broadcast(_as_table(spark, ingested).select("topic", "partition", "first", "end")),
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
    skips = _skipped(spark, root) if holes else {}
    unskipped = {place: _without(runs, skips.get(place, ())) for place, runs in holes.items()}
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
        gap_count = _length(gaps.get(place, ()))
        accounts.append(
            Account(
                topic=place[0],
                partition=place[1],
                first_offset=first,
                end_offset=end,
                gaps=gap_count,
                delivered=end - first - gap_count,
                raw_events=row.get("raw_events", 0),
                skipped=_length(holes.get(place, ())) - _length(unskipped.get(place, ())),
                accepted=accepted,
                dead=row.get("dead", 0),
                repaired=row.get("repaired", 0),
                discarded=row.get("discarded", 0),
                tombstones=row.get("tombstones", 0),
                distinct=unique,
                duplicates=accepted - unique,
                behind=max(0, held[1] - max(end, held[0])) if held else None,
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
            for name in (ORDER_EVENTS, PRODUCT_EVENTS)
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


_MARKS = ("raw", "tombstone", "accepted", "dead", "repaired", "discarded")


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
        .limit(_MOST_ROWS)
        .collect()
    )
    offsets: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for row in rows:
        offsets[row["fault"], row["topic"], row["partition"]].append(row["offset"])
    return [
        _fault(fault, ledger.INGEST, (topic, partition), _runs(numbers))
        for (fault, topic, partition), numbers in offsets.items()
    ]


def _holes(spark: SparkSession, root: str, spans: Mapping[Partition, Run]) -> dict[Partition, list[Run]]:
    """Inside these spans the runs of offsets for which raw_events has no row."""
    if not spans:
        return {}
    readings = [_Reading(ledger.INGEST, 0, place, span) for place, span in spans.items()]
    expected = _as_table(spark, readings).select("topic", "partition", "first", "end")
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
    for row in stepped.where(is_hole).orderBy(*RECORD_IDENTITY).limit(_MOST_ROWS).collect():
        holes[row["topic"], row["partition"]].append((row["before"] + 1, row["offset"]))
    return dict(holes)


def _skipped(spark: SparkSession, root: str) -> dict[Partition, list[Run]]:
    """The records that ingest was told to go past."""
    path = table_path(root, SKIPPED_RECORDS)
    if newest_version(spark, path) is None:
        return {}
    offsets: dict[Partition, list[int]] = defaultdict(list)
    for row in spark.read.format("delta").load(path).select(*RECORD_IDENTITY).distinct().collect():
        offsets[row["topic"], row["partition"]].append(row["offset"])
    return {place: _runs(found) for place, found in offsets.items()}


def _told_apart(
    spark: SparkSession, settings: Settings, holes: Mapping[Partition, Sequence[Run]], kafka: _Kafka
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
        unknown = _without(runs, known[place])
        gaps[place] = _without(runs, unknown)
        if place not in kafka.bounds:
            fault = "untold" if kafka.silence is None else "unproven"
            faults += [_fault(fault, ledger.INGEST, place, unknown)] if unknown else []
            continue
        begin, _ = kafka.bounds[place]
        expired = _without(unknown, [(begin, 2**63 - 1)])
        asked = _without(unknown, expired)
        found = [*kafka_offsets.committed(settings.kafka.bootstrap_servers, place, asked)] if asked else []
        lost = _runs(found)
        new[place] = _without(asked, lost)
        gaps[place] += new[place]
        faults += [
            _fault(name, ledger.INGEST, place, runs)
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


def _against_kafka(spans: Mapping[Partition, Run], kafka: _Kafka) -> list[Fault]:
    """What was delivered against what Kafka holds; offsets that it no longer holds are fine where they were delivered."""
    faults = []
    for place, (begin, kafka_end) in kafka.bounds.items():
        if place not in spans:
            continue
        first, end = spans[place]
        if kafka_end < end:
            faults.append(_fault("kafka_is_shorter", ledger.INGEST, place, [(kafka_end, end)]))
        unread = [run for run in ((begin, first), (end, begin)) if run[0] < run[1]]
        if unread:
            faults.append(_fault("never_read", ledger.INGEST, place, unread))
    return faults


def _distinct(
    spark: SparkSession, settings: Settings, found: Evidence, ingested: Sequence[_Reading]
) -> dict[Partition, int]:
    """By partition the accepted orders and products that are the first of their identity in (partition, offset)."""
    told = _told(spark, settings, found, (ORDERS, PRODUCTS))
    spans = F.broadcast(_as_table(spark, ingested).select("topic", "partition", "end"))
    judged = told.join(spans, on=["topic", "partition"]).where(F.col("offset") < F.col("end"))
    firsts = judged.groupBy("topic", "key", "event_time").agg(
        F.min(F.struct("partition", "offset")).alias("first")
    )
    counts = firsts.groupBy("topic", F.col("first.partition").alias("partition")).count()
    return {(row["topic"], row["partition"]): row["count"] for row in counts.collect()}


def _told(spark: SparkSession, settings: Settings, found: Evidence, kinds: Sequence[str]) -> DataFrame:
    """The events that were accepted as they came, in the form of `late.identified`."""
    parts = [
        late.identified(unrepaired(events_of(spark, settings, kind, log=found.log), found), kind)
        for kind in kinds
    ]
    return reduce(DataFrame.unionByName, parts)


def _queries(
    spark: SparkSession, settings: Settings, found: Evidence, read: Sequence[_Reading]
) -> tuple[list[QueryAccount], list[Fault]]:
    if not found.scopes:
        return [], []
    told = _told(spark, settings, found, (ORDERS, PRODUCTS, TEXT_LINES))
    identity = ("query", "topic", "key", "event_time")
    entries = late.readings(spark, found.entries, [*found.scopes.values()])
    about = ("query", "wanted_type", "counts_from", "kind", "watermark")
    kinds = F.create_map(*[F.lit(word) for pair in kind_of_topic(settings).items() for word in pair])
    is_of_kind = kinds[F.col("topic")] == F.col("kind")
    in_time = ledger.with_batch(told, entries, columns=about).where(
        late.is_wanted() & is_of_kind & (late.is_in_time() | F.col("event_time").isNull())
    )
    should = told.join(F.broadcast(_wanted(spark, found, read)), on=["topic", "partition"]).where(
        (F.col("offset") >= F.col("first")) & (F.col("offset") < F.col("end")) & late.is_wanted()
    )
    missed = late.recorded(spark, settings.lake.root).where(F.col("query").isin(*found.scopes))
    place = F.struct("partition", "offset").alias("place")
    parts = [
        rows.select(
            *identity, place, *[F.lit(name == mark).alias(name) for name in ("should", "counted", "late")]
        )
        for mark, rows in (("should", should), ("counted", in_time), ("late", missed))
    ]
    verdicts = (
        reduce(DataFrame.unionByName, parts)
        .groupBy(*identity)
        .agg(
            *[F.bool_or(name).alias(name) for name in ("should", "counted", "late")],
            F.min("place").alias("place"),
        )
    )
    is_missed = F.col("should") & ~F.col("counted") & ~F.col("late")
    is_wrong = F.col("late") & (F.col("counted") | ~F.col("should"))
    counts = (
        verdicts.groupBy("query", "topic")
        .agg(
            F.count_if("should").alias("to_read"),
            F.count_if(F.col("should") & F.col("counted")).alias("counted"),
            F.count_if("late").alias("late"),
            F.count_if(is_missed | is_wrong).alias("wrong"),
        )
        .orderBy("query", "topic")
        .collect()
    )
    accounts = [
        QueryAccount(
            row["query"],
            row["topic"],
            found.scopes[row["query"]].judged,
            row["to_read"],
            row["counted"],
            row["late"],
        )
        for row in counts
    ]
    faults = []
    if any(row["wrong"] for row in counts):
        verdict = F.when(is_missed, "not_counted").when(is_wrong, "wrongly_late")
        faults = _event_faults(verdicts.withColumn("fault", verdict))
    return accounts, [*faults, *_table_faults(spark, settings, found, accounts)]


def _wanted(spark: SparkSession, found: Evidence, read: Sequence[_Reading]) -> DataFrame:
    """The spans of the speed queries, each with its view as `query` and with what the source counts."""
    scopes = {scope.view.query: scope for scope in found.scopes.values()}
    rows = [
        (
            scopes[reading.query].view.name,
            *reading.place,
            *reading.span,
            scopes[reading.query].view.reads[reading.source].event_type,
            scopes[reading.query].counts_from,
        )
        for reading in read
        if reading.query in scopes
    ]
    return spark.createDataFrame(
        rows,
        "query string, topic string, partition int, first bigint, end bigint, wanted_type string, counts_from timestamp",
    )


def _event_faults(verdicts: DataFrame) -> list[Fault]:
    rows = (
        verdicts.where(F.col("fault").isNotNull())
        .select("fault", "query", "topic", "place.*")
        .orderBy("query", "topic", "partition", "offset")
        .limit(_MOST_ROWS)
        .collect()
    )
    offsets: dict[tuple[str, str, str, int], list[int]] = defaultdict(list)
    for row in rows:
        offsets[row["fault"], row["query"], row["topic"], row["partition"]].append(row["offset"])
    return [
        _fault(fault, query, (topic, partition), _runs(numbers))
        for (fault, query, topic, partition), numbers in offsets.items()
    ]


def _table_faults(
    spark: SparkSession, settings: Settings, found: Evidence, accounts: Sequence[QueryAccount]
) -> list[Fault]:
    """Of the views whose rows say how many orders they hold: whether the table adds up to what the query counted."""
    faults = []
    for account in accounts:
        view = VIEWS[account.query]
        table = reconcile.speed_table(spark, settings, view, found)
        if "order_count" not in view.columns or table is None:
            continue
        seed = seed_of(spark, settings, view)
        held = _order_count(spark, *table) - (_order_count(spark, seed.path, seed.version) if seed else 0)
        if held != account.counted:
            detail = f"the table adds up to {held} orders, the query counted {account.counted}"
            difference = abs(held - account.counted)
            faults.append(Fault("table_differs", view.name, account.topic, None, difference, detail=detail))
    return faults


def _order_count(spark: SparkSession, path: str, version: int) -> int:
    (row,) = read_version(spark, path, version).agg(F.sum("order_count").alias("orders")).collect()
    return int(row["orders"] or 0)


def _as_table(spark: SparkSession, read: Sequence[_Reading]) -> DataFrame:
    rows = [(reading.query, reading.source, *reading.place, *reading.span) for reading in read]
    return spark.createDataFrame(
        rows, "query string, source int, topic string, partition int, first bigint, end bigint"
    )


def _fault(fault: str, query: str, place: Partition, runs: Sequence[Run]) -> Fault:
    shown = [f"{first}" if end - first == 1 else f"{first}-{end - 1}" for first, end in runs[:_MOST_RUNS]]
    more = [f"and {len(runs) - _MOST_RUNS} more runs"] if len(runs) > _MOST_RUNS else []
    return Fault(fault, query, place[0], place[1], _length(runs), [*shown, *more])


def _shown(query: str) -> str:
    """A speed query goes by its view's name, as in `late_events`."""
    return next((view.name for view in VIEWS.values() if view.query == query), query)


def _kind(settings: Settings, place: Partition) -> str | None:
    return kind_of_topic(settings).get(place[0])


def _length(runs: Iterable[Run]) -> int:
    return sum(end - first for first, end in runs)


def _runs(offsets: Iterable[int]) -> list[Run]:
    """The offsets as runs that follow each other."""
    runs: list[Run] = []
    for offset in sorted(set(offsets)):
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + 1)
        else:
            runs.append((offset, offset + 1))
    return runs


def _without(runs: Iterable[Run], taken: Iterable[Run]) -> list[Run]:
    """What of the runs lies in none of those taken."""
    left = sorted(runs)
    for first, end in sorted(taken):
        left = [
            part
            for run in left
            for part in ((run[0], min(run[1], first)), (max(run[0], end), run[1]))
            if part[0] < part[1]
        ]
    return left
