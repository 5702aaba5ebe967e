"""How each streaming query stands, told by what it has left in the lake; it need not run, and may run elsewhere.

*Running* means that a process holds the query's lock (`stopping`). That it makes headway is not said by this: a process
that hangs holds the lock, too, so look at when the last batch ended. A network file system tells of a lock as far as its
flock does; on HDFS and object stores there is none, and the mark that stands for it outlives a process that was killed.

A batch has ended when Spark wrote its file under `commits/`, and began when it wrote the one under `offsets/`: the times
are those of the files. Rates go over the last batches, at most 20, that ended within 5 minutes before now (before the last
batch's end where the query does not run): their records by the checkpoint, their rows by the commits of the query's
table, divided by the time since the first of them began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pyspark.sql import SparkSession

from pipeline import catalog, checkpoints, files, guards, kafka_offsets, ledger, versions
from pipeline.checkpoints import MicroBatch
from pipeline.delta_log import Commit, commit, commits, newest_version
from pipeline.errors import CheckpointDamaged, ConfigurationError, DependencyError, KafkaFailed
from pipeline.feeds import feed_of, newest_facts
from pipeline.kafka_check import require_connection
from pipeline.kafka_offsets import Address, Held, Partition
from pipeline.kinds import Kind
from pipeline.observe import observed
from pipeline.progress import Observed
from pipeline.settings import Settings
from pipeline.sources import kafka_options, kafka_topics
from pipeline.stopping import is_asked_to_stop
from pipeline.tables import RAW_EVENTS, checkpoint_path, table_path, view_path
from pipeline.views import View

__all__ = ["Kafka", "Query", "Standing", "Waiting", "ask_kafka", "queries", "standing"]

_MOST_BATCHES = 20
_RATE_SECONDS = 300.0
_KAFKA_SECONDS = 10.0


@dataclass(frozen=True)
class Query:
    """A streaming query by its versioned name, and the kinds of events that it reads; `view` is None for ingest.

    `is_beside`: of a version that is being made beside the live one.
    """

    name: str
    kinds: Mapping[str, Kind]
    view: View | None = None
    is_beside: bool = False

    def table(self, root: str) -> str:
        """The table whose commits say how many rows it has written."""
        view = self.view
        return view_path(root, view.name, "speed", view.label) if view else table_path(root, RAW_EVENTS)


def queries(spark: SparkSession | None, settings: Settings) -> list[Query]:
    """Ingest, the query of each view's live version, and that of a version that is being made beside it."""
    kinds, known = catalog.kinds(settings), versions.read(spark, settings)
    defined = catalog.views(settings).values()
    beside = [made for view in defined if (made := known.next(view))]
    views = [(known.live(view), False) for view in defined] + [(made, True) for made in beside]
    of_views = [
        Query(view.query, {kind: kinds[kind] for kind in view.inputs}, view, is_beside)
        for view, is_beside in views
    ]
    return [Query(ledger.INGEST, kinds), *of_views]


@dataclass(frozen=True)
class Kafka:
    """What Kafka says of the topics, or in `silence` why it says nothing.

    `ends` is where each query that reads Kafka went on, read before Kafka was asked. `retention_ms` is Kafka's own setting,
    -1 for ever; `times` are the timestamps of the first records not read yet, `ids` those of the topics. `warnings` are what makes
    numbers wrong or late though nothing is refused.
    """

    ends: Mapping[str, Mapping[Partition, int]] = field(default_factory=dict)
    held: Mapping[Partition, Held] = field(default_factory=dict)
    retention_ms: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[Address, datetime] = field(default_factory=dict)
    silence: str | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Waiting:
    """The events that hold a query's watermark back: `event_type` of the topic (None: all of it), which has been silent for so long.

    `newest_event` is the newest of them (None: there is none).
    """

    topic: str
    event_type: str | None
    silent_seconds: float | None
    newest_event: datetime | None


@dataclass(frozen=True)
class Standing:
    """How a query stands; what is not known, or has not happened yet, is None.

    `is_beside` is one of a version that is being made beside the one that readers see.
    `batch_id` is the last finished batch, with its records read and rows written. `begun_batch_id` is one that was begun
    and has not ended: it is under way, or was cut short and will run again. `lag_records` is what its source holds that the query
    has not read, as of `lag_at`; `lag_seconds` the age of the oldest of it, and `retention_seconds` the shortest that one
    of its topics keeps a record. `expired_records` are gone from Kafka unread. `watermark` closed windows and state in
    the last batch, `due_watermark` is to do so in the next one, and `newest_event` is the newest event time known of what the query counts. `late_events` are those that
    `late_events` names. `problem` says why the rest could not be read.
    """

    query: str
    view: str | None
    is_running: bool
    is_beside: bool = False
    is_asked_to_stop: bool = False
    batch_id: int | None = None
    batch_ended_at: datetime | None = None
    batch_records: int | None = None
    batch_rows: int | None = None
    begun_batch_id: int | None = None
    begun_at: datetime | None = None
    records_per_second: float | None = None
    rows_per_second: float | None = None
    lag_records: int | None = None
    lag_at: datetime | None = None
    lag_seconds: float | None = None
    retention_seconds: float | None = None
    expired_records: int = 0
    watermark: datetime | None = None
    due_watermark: datetime | None = None
    newest_event: datetime | None = None
    watermark_behind_seconds: float | None = None
    waits_for: Waiting | None = None
    late_events: int | None = None
    late_not_healed: int | None = None
    state_rows: int | None = None
    state_bytes: int | None = None
    state_memory_bytes: int | None = None
    problem: str | None = None


def ask_kafka(spark: SparkSession | None, settings: Settings) -> Kafka:
    """What Kafka holds, of the topics and of what the queries are to read next. Never raises: it may be silent."""
    if not kafka_offsets.can_be_asked(settings.kafka.options):
        return Kafka(silence="Kafka was not asked: its clients need a login that only Spark's reader has.")
    servers, all_ends = settings.kafka.bootstrap_servers, _all_ends(spark, settings)
    try:
        options = kafka_options(settings)
        topics = kafka_topics(settings, [*catalog.kinds(settings)]).names
        require_connection(servers, _KAFKA_SECONDS)
        held = kafka_offsets.held_by_kafka(servers, topics, _KAFKA_SECONDS, options=options)
        unread = {
            (*place, max(ends.get(place, 0), one.first))
            for ends in all_ends.values()
            for place, one in held.items()
            if max(ends.get(place, 0), one.first) < one.end
        }
        times = kafka_offsets.record_times(servers, unread, options=options) if unread else {}
        told = kafka_offsets.topic_settings(servers, topics, _KAFKA_SECONDS, options=options)
        retention_ms = {topic: int(found["retention.ms"]) for topic, found in told.items()}
        ids = kafka_offsets.ids(servers, topics, _KAFKA_SECONDS, options=options)
        return Kafka(
            all_ends, held, retention_ms, times, ids=ids, warnings=kafka_offsets.warnings(told, held)
        )
    except (DependencyError, KafkaFailed, ConfigurationError) as error:
        return Kafka(silence=error.message.splitlines()[0])


def standing(
    spark: SparkSession | None,
    settings: Settings,
    query: Query,
    *,
    is_running: bool,
    kafka: Kafka,
    now: datetime,
) -> Standing:
    """How the query stands; without a session only of a lake on this machine."""
    root = settings.lake.root
    known: dict[str, Any] = {
        "query": query.name,
        "view": query.view.name if query.view else None,
        "is_running": is_running,
        "is_beside": query.is_beside,
        "is_asked_to_stop": is_running and is_asked_to_stop(spark, root, query.name),
    }
    try:
        noted = observed(spark, root, query.name)
        known |= _batches(spark, root, query, end=now if is_running else None)
        known |= _lag(spark, settings, query, kafka=kafka, noted=noted, now=now)
        known |= _state(spark, root, query, noted)
    except CheckpointDamaged as damage:
        known["problem"] = damage.message
    return Standing(**known)


def _all_ends(spark: SparkSession | None, settings: Settings) -> dict[str, Mapping[Partition, int]]:
    """Where each query goes on; one whose checkpoint is damaged says so when it is looked at."""
    found: dict[str, Mapping[Partition, int]] = {}
    for query in queries(spark, settings):
        with suppress(CheckpointDamaged):
            offsets = checkpoints.next_offsets(spark, checkpoint_path(settings.lake.root, query.name))
            found[query.name] = {(topic, partition): offset for topic, partition, offset in offsets}
    return found


def _batches(spark: SparkSession | None, root: str, query: Query, *, end: datetime | None) -> dict[str, Any]:
    checkpoint = checkpoint_path(root, query.name)
    newest, begun = (
        checkpoints.last_committed_batch(spark, checkpoint),
        checkpoints.last_batch(spark, checkpoint),
    )
    known: dict[str, Any] = {}
    if begun is not None and begun != newest:
        known |= {"begun_batch_id": begun, "begun_at": checkpoints.began_at(spark, checkpoint, begun)}
    if newest is None:
        return known
    ended_at = checkpoints.ended_at(spark, checkpoint, newest)
    recent = checkpoints.finished_since(spark, checkpoint, newest - _MOST_BATCHES)
    records = {batch.batch_id: _records(spark, root, query, batch) for batch in recent}
    rows = _rows_written(spark, root, query, since=newest - _MOST_BATCHES)
    end = end or ended_at
    counted = [
        number for number in records if _is_recent(checkpoints.ended_at(spark, checkpoint, number), end)
    ]
    began_at = checkpoints.began_at(spark, checkpoint, counted[0]) if counted else None
    seconds = (end - began_at).total_seconds() if end and began_at else _RATE_SECONDS
    known |= {
        "batch_id": newest,
        "batch_ended_at": ended_at,
        "batch_records": records.get(newest),
        "batch_rows": rows.get(newest, 0),
        "watermark": checkpoints.newest_watermark(spark, checkpoint),
        "due_watermark": checkpoints.due_watermark(spark, checkpoint),
    }
    if seconds > 0:
        known["records_per_second"] = sum(records[number] for number in counted) / seconds
        known["rows_per_second"] = sum(rows.get(number, 0) for number in counted) / seconds
    return known


def _is_recent(ended_at: datetime | None, end: datetime | None) -> bool:
    return ended_at is not None and end is not None and ended_at >= end - timedelta(seconds=_RATE_SECONDS)


def _records(spark: SparkSession | None, root: str, query: Query, batch: MicroBatch) -> int:
    """What the batch read, each record once, by however many of its sources."""
    read = {(part.topic, part.partition): part.end - part.first for part in batch.ranges}
    versions = {
        _log_table(root, query, part.source): (-1 if part.after is None else part.after, part.through)
        for part in batch.log_ranges
    }
    return sum(read.values()) + sum(
        _rows_between(spark, path, after, through) or 0 for path, (after, through) in versions.items()
    )


def _rows_written(spark: SparkSession | None, root: str, query: Query, *, since: int) -> dict[int, int]:
    """The rows that each batch after `since` has put into the query's table, or changed there; none for one that wrote none."""
    path, application = (
        query.table(root),
        f"{query.name}:{checkpoints.generation(spark, checkpoint_path(root, query.name))}",
    )
    found: dict[int, int] = {}
    for made in islice(commits(spark, path), 2 * _MOST_BATCHES):
        batch_id = made.transactions.get(application)
        if batch_id is not None:
            if batch_id <= since:
                break
            found[batch_id] = made.rows
    return found


def _lag(
    spark: SparkSession | None,
    settings: Settings,
    query: Query,
    *,
    kafka: Kafka,
    noted: Observed | None,
    now: datetime,
) -> dict[str, Any]:
    root = settings.lake.root
    checkpoint = checkpoint_path(root, query.name)
    read = checkpoints.versions_read(spark, checkpoint)
    is_of_log = query.view is not None and versions.source_of(spark, settings, query.view) != "kafka"
    if read or (is_of_log and checkpoints.last_batch(spark, checkpoint) is None):
        return _lag_of_log(spark, root, query, read, now=now)
    if kafka.silence is not None:
        return {"lag_records": noted.records_behind, "lag_at": noted.started_at} if noted else {}
    topics = kafka_topics(settings, [*query.kinds]).names
    held = {place: one for place, one in kafka.held.items() if place[0] in topics}
    ends = kafka.ends.get(query.name, {})
    firsts = {place: max(ends.get(place, 0), one.first) for place, one in held.items()}
    waiting = [
        kafka.times[(*place, offset)] for place, offset in firsts.items() if (*place, offset) in kafka.times
    ]
    keeps = [kafka.retention_ms[topic] for topic in topics if kafka.retention_ms.get(topic, -1) >= 0]
    behind = kafka_offsets.behind(ends, {place: (one.first, one.end) for place, one in held.items()})
    return {
        "lag_records": behind,
        "lag_at": now,
        "lag_seconds": (now - min(waiting)).total_seconds() if waiting else None if behind else 0.0,
        "retention_seconds": min(keeps) / 1000 if keeps else None,
        "expired_records": sum(
            max(0, held[place].first - end) for place, end in ends.items() if place in held
        ),
        "problem": _replaced(spark, checkpoint, kafka, ends) or _shorter(ends, held),
    }


def _replaced(
    spark: SparkSession | None, checkpoint: str, kafka: Kafka, ends: Mapping[Partition, int]
) -> str | None:
    found = guards.replaced_topics(spark, checkpoint=checkpoint, ids=kafka.ids) if ends else []
    return f"{', '.join(found)} was made anew since its checkpoint began (TopicReplaced)." if found else None


def _shorter(ends: Mapping[Partition, int], held: Mapping[Partition, Held]) -> str | None:
    gone = [place for place, end in ends.items() if place in held and held[place].end < end]
    if not gone:
        return None
    named = ", ".join(f"{topic}-{partition}" for topic, partition in gone)
    return f"Kafka ends before what was read of {named}: the topic was made anew, or has lost records."


def _lag_of_log(
    spark: SparkSession | None, root: str, query: Query, read: Mapping[int, int], *, now: datetime
) -> dict[str, Any]:
    """Of a query that reads the log: the rows of the versions after the one that it has read, and those that its feed has not yet."""
    assert query.view is not None
    after = {_log_table(root, query, source): read.get(source, -1) for source in range(len(query.view.reads))}
    not_fed = [*_not_fed(spark, root, query)]
    lag, oldest = sum(made.rows for made in not_fed), [made.made_at for made in not_fed]
    for path, version in after.items():
        newest = newest_version(spark, path)
        rows = 0 if newest is None else _rows_between(spark, path, version, newest)
        if rows is None:
            return {"lag_at": now}
        if rows:
            first = next(
                made
                for number in range(version + 1, (newest or 0) + 1)
                if (made := commit(spark, path, number)) and made.rows
            )
            oldest.append(first.made_at)
        lag += rows
    seconds = (now - min(oldest)).total_seconds() if oldest else 0.0
    return {"lag_records": lag, "lag_at": now, "lag_seconds": seconds}


def _not_fed(spark: SparkSession | None, root: str, query: Query) -> Iterator[Commit]:
    """The commits of ingest, with rows, that a feed does not hold yet, in the tables of the kinds that it is about."""
    feed = feed_of(root, query.view) if query.view else None
    held = newest_facts(spark, feed) if feed else None
    if held is None or held.through is None:
        return
    application = f"{ledger.INGEST}:{held.generation}"
    for kind in query.kinds.values():
        for made in commits(spark, table_path(root, kind.table)):
            batch_id = made.transactions.get(application)
            if batch_id is not None and batch_id <= held.through:
                break
            if batch_id is not None and made.rows:
                yield made


def _rows_between(spark: SparkSession | None, path: str, after: int, through: int) -> int | None:
    """The rows that these commits have written; None where the table's log no longer keeps one of them."""
    made = [commit(spark, path, version) for version in range(after + 1, through + 1)]
    return None if None in made else sum(one.rows for one in made if one)


def _log_table(root: str, query: Query, source: int) -> str:
    assert query.view is not None
    feed = feed_of(root, query.view)
    return feed or table_path(root, query.kinds[query.view.reads[source].kind].table)


def _state(spark: SparkSession | None, root: str, query: Query, noted: Observed | None) -> dict[str, Any]:
    if query.view is None:
        return {}
    known: dict[str, Any] = {"state_bytes": files.size(spark, f"{checkpoint_path(root, query.name)}/state")}
    if noted:
        known |= {"state_rows": noted.state_rows, "state_memory_bytes": noted.state_memory_bytes}
    return known
