"""`pipeline status`: how the streaming queries, the log, the views and their tables stand, as of one moment.

Read from the lake, and from Kafka where it answers, without Spark where the lake is on this machine. What would take more than a
look is left to `pipeline audit`: duplicates and fates are counted up to some millions of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal, cast

from pipeline import ahead, catalog, files, versions
from pipeline.checkpoints import generation
from pipeline.contracts import (
    DISCARDED,
    LATENESS_MINUTES,
    RECORD_IDENTITY,
    REPAIRED,
    TEXT_LINES,
)
from pipeline.delta_log import commit
from pipeline.errors import LakeUnreachable
from pipeline.feeds import feed_of
from pipeline.instants import shifted
from pipeline.ledger import INGEST
from pipeline.published import published
from pipeline.reading import LocalTables, Size, SparkTables, Tables
from pipeline.settings import Settings
from pipeline.sources import kind_of_topic
from pipeline.standing import Kafka, Query, Standing, Waiting, ask_kafka, queries, standing
from pipeline.stopping import running_queries
from pipeline.tables import (
    BATCH_LEDGER,
    DEAD_LETTERS,
    LATE_EVENTS,
    REPAIRS,
    SCHEMAS,
    checkpoint_path,
    local_path,
    table_path,
    view_path,
)
from pipeline.views import Reading, View

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["BatchView", "Report", "Table", "Topic", "look"]

_LATENESS = timedelta(minutes=LATENESS_MINUTES)
_LOOK_BACK = timedelta(hours=24)
_MOST_ROWS = 5_000_000
_MOST_FILES = 2_000
_NEWEST_RECORDS = 10_000
"""What is counted row by row; a second's work."""

_Events = Mapping[tuple[str, str | None], datetime]
"""The newest event time by kind, and of orders by event_type."""


@dataclass(frozen=True)
class Topic:
    """A topic in Kafka and in the log; None where Kafka is silent, or what would have to be counted is too much for a look.

    `kafka_records` are those it holds (gaps included), `retention_ms` as Kafka has it (-1: for ever), `accepted`, `dead` and `tombstones` what ingest
    made of them; of the dead, `dead_open` are neither repaired nor discarded. `duplicates` are accepted again.
    """

    topic: str
    kind: str
    kafka_records: int | None = None
    newest_record_at: datetime | None = None
    retention_ms: int | None = None
    accepted: int | None = None
    dead: int | None = None
    dead_open: int | None = None
    tombstones: int | None = None
    duplicates: int | None = None


@dataclass(frozen=True)
class BatchView:
    """A view's tables: the batch form as published (None: not yet), how old it is, its rows and those of the speed form."""

    view: str
    horizon: datetime | None
    published_at: datetime | None
    age_seconds: float | None
    rows: int | None
    speed_rows: int | None


@dataclass(frozen=True)
class Table:
    """Where a table lies now, and what it holds at its newest version."""

    table: str
    path: str
    version: int
    rows: int | None
    bytes: int
    files: int
    changed_at: datetime | None


@dataclass(frozen=True)
class Share:
    """Of the newest records of a topic (that a view's query has read), at least 10,000 if there are so many: the `dead` (the `late`)."""

    share: Literal["dead", "late"]
    subject: str
    count: int
    records: int


@dataclass(frozen=True)
class Report:
    """`kafka_silence` says why Kafka tells nothing; `notes` what was not counted, and what is ahead of the clock."""

    at: datetime
    lake: str
    kafka: str
    kafka_silence: str | None
    queries: Sequence[Standing]
    topics: Sequence[Topic]
    views: Sequence[BatchView]
    tables: Sequence[Table]
    shares: Sequence[Share]
    notes: Sequence[str] = field(default_factory=list)


def look(settings: Settings) -> Report:
    """How everything stands now. Raises LakeUnreachable where there is no lake."""
    now = datetime.now(timezone.utc)
    spark = _session_if_needed(settings)
    _require_lake(spark, settings.lake.root)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_kafka, spark, settings)
        tables: Tables = LocalTables() if spark is None else SparkTables(spark)
        live = [*versions.live_views(spark, settings).values()]
        sizes = _sizes(tables, settings, live)
        log = _Log(tables, settings, sizes)
        late, newest = log.late_events(), log.newest_events(now)
        kafka = asking.result()
    running = running_queries(settings.lake.root, spark=spark)
    stand = []
    for query in queries(spark, settings):
        is_running = query.name in running
        known = standing(spark, settings, query, is_running=is_running, kafka=kafka, now=now)
        stand.append(_with_events(known, query, settings, kafka, late, newest, now))
    views = [_view(spark, settings, view, sizes, now) for view in live]
    return Report(
        at=now,
        lake=settings.lake.root,
        kafka=settings.kafka.bootstrap_servers,
        kafka_silence=kafka.silence,
        queries=stand,
        topics=log.topics(spark, kafka),
        views=views,
        tables=[_table(spark, name, path, size) for name, (path, size) in sizes.items()],
        shares=[*log.dead_shares(spark), *log.late_shares(spark, live)],
        notes=[*kafka.warnings, *log.notes, *_ahead_of_the_clock(newest, stand, views, now)],
    )


def _session_if_needed(settings: Settings) -> SparkSession | None:
    if local_path(settings.lake.root) is not None:
        return None
    from pipeline.starting import session

    return session(settings)


def _require_lake(spark: SparkSession | None, root: str) -> None:
    known = {"_checkpoints", "views", *SCHEMAS}
    try:
        reason = None if known & {*files.names(spark, root)} else "there are no tables and no checkpoints"
    except Exception as error:  # noqa: BLE001  # whatever a file system says: the lake cannot be read
        reason = str(error).splitlines()[0]
    if reason is not None:
        raise LakeUnreachable(
            f"There is no lake at {root}: {reason}.\n"
            "Begin one with `pipeline ingest`, or name the one you mean: --set lake.root=… (or lake.root in conf/<env>.yml). "
            "Is it on a disk that is not mounted?",
            root=root,
        )


def _sizes(tables: Tables, settings: Settings, views: Sequence[View]) -> dict[str, tuple[str, Size]]:
    """Path and size by name of all tables that there are; a view's by `<view>.speed` and `<view>.batch`, its feed by `<view>.feed`."""
    root = settings.lake.root
    paths = {name: table_path(root, name) for name in catalog.schemas(settings)}
    for view in views:
        paths[f"{view.name}.speed"] = view_path(root, view.name, "speed", view.label)
        paths[f"{view.name}.batch"] = view_path(root, view.name, "batch", view.label)
        feed = feed_of(root, view)
        paths |= {f"{view.name}.feed": feed} if feed else {}
    found = {name: (path, tables.size(path)) for name, path in paths.items()}
    return {name: (path, size) for name, (path, size) in found.items() if size is not None}


class _Log:
    """What the log's tables say, of those that there are."""

    def __init__(self, tables: Tables, settings: Settings, sizes: Mapping[str, tuple[str, Size]]) -> None:
        self._tables, self._settings, self._sizes = tables, settings, sizes
        self.notes: list[str] = []

    def late_events(self) -> dict[str, tuple[int, int]] | None:
        """By view, how many events were late and how many of them no batch run has counted; None: none has been entered yet."""
        if LATE_EVENTS not in self._sizes:
            return None
        counted = "SELECT query, count(*), count(*) FILTER (WHERE healed_at IS NULL)"
        rows = self._tables.rows(f"{counted} FROM {self._relation(LATE_EVENTS)} GROUP BY query")
        return {view: (events, open_events) for view, events, open_events in rows}

    def newest_events(self, now: datetime) -> dict[tuple[str, str | None], datetime]:
        """By kind and event_type (None where the kind has none) those of the last 24 hours of event time, up to the newest event
        that is not ahead of the clock.
        """
        found: dict[tuple[str, str | None], datetime] = {}
        for kind in catalog.kinds(self._settings).values():
            name = kind.table
            if kind.is_text or name not in self._sizes:
                continue
            newest = self._tables.newest(self._sizes[name][0], "event_time")
            if newest is None:
                continue
            if ahead.is_ahead(newest, now):
                newest = self._newest_in_time(name, now) or newest
            by = "event_type" if kind.by_type else "NULL"
            since = _literal(min(newest - _LOOK_BACK, ahead.latest(now)))
            rows = self._tables.rows(
                f"SELECT {by}, max(event_time) FROM {self._relation(name)} WHERE event_time >= {since} GROUP BY 1"
            )
            found |= {(kind.name, event_type): newest for event_type, newest in rows}
        return found

    def _newest_in_time(self, name: str, now: datetime) -> datetime | None:
        ((newest,),) = self._tables.rows(
            f"SELECT max(event_time) FROM {self._relation(name)} WHERE event_time <= {_literal(ahead.latest(now))}"
        )
        return cast("datetime | None", newest)

    def topics(self, spark: SparkSession | None, kafka: Kafka) -> list[Topic]:
        fates, still_dead = self._fates(spark), self._still_dead()
        found = []
        for topic, kind in kind_of_topic(self._settings).items():
            held = [one for place, one in kafka.held.items() if place[0] == topic]
            made = [one.newest_at for one in held if one.newest_at]
            accepted, dead, tombstones = (
                fates.get(topic, (0, 0, 0)) if fates is not None else (None, None, None)
            )
            found.append(
                Topic(
                    topic,
                    kind,
                    kafka_records=sum(one.end - one.first for one in held) if held else None,
                    newest_record_at=max(made, default=None),
                    retention_ms=kafka.retention_ms.get(topic),
                    accepted=accepted,
                    dead=dead,
                    dead_open=None if dead is None or still_dead is None else still_dead[topic],
                    tombstones=tombstones,
                    duplicates=self._duplicates(kind, topic),
                )
            )
        return found

    def _fates(self, spark: SparkSession | None) -> dict[str, tuple[int, int, int]] | None:
        """Accepted, dead and tombstones by topic, of the present generation of ingest."""
        if not self._is_countable(BATCH_LEDGER, "what became of the records"):
            return None
        present = generation(spark, checkpoint_path(self._settings.lake.root, INGEST))
        rows = self._tables.rows(
            "SELECT topic, CAST(sum(accepted) AS BIGINT), CAST(sum(dead) AS BIGINT), CAST(sum(tombstones) AS BIGINT) "
            f"FROM {self._relation(BATCH_LEDGER)} WHERE query = '{INGEST}' AND generation = '{present}' GROUP BY topic"
        )
        return {topic: (accepted, dead, tombstones) for topic, accepted, dead, tombstones in rows}

    def dead_shares(self, spark: SparkSession | None) -> Iterator[Share]:
        """By topic; an old fault is out of it when enough has come since."""
        for topic, batches in sorted(self._newest_batches(spark, INGEST).items()):
            records, dead = 0, 0
            for _, read, of_them in batches:
                if records >= _NEWEST_RECORDS:
                    break
                records, dead = records + read, dead + (of_them or 0)
            yield Share("dead", topic, dead, records)

    def late_shares(self, spark: SparkSession | None, views: Sequence[View]) -> Iterator[Share]:
        """By view."""
        if LATE_EVENTS not in self._sizes:
            return
        for view in views:
            by_topic = self._newest_batches(spark, view.query)
            records, first = 0, None
            for batch_id, read in _by_batch(by_topic):
                if records >= _NEWEST_RECORDS:
                    break
                records, first = records + read, batch_id
            if first is None:
                continue
            ((late,),) = self._tables.rows(
                f"SELECT count(*) FROM {self._relation(LATE_EVENTS)} WHERE query = '{view.name}' AND batch_id >= {first}"
            )
            yield Share("late", view.name, late, records)

    def _newest_batches(
        self, spark: SparkSession | None, query: str
    ) -> dict[str, list[tuple[int, int, int | None]]]:
        """By topic the batches of the query's present generation, the newest first: number, records read, dead ones."""
        if BATCH_LEDGER not in self._sizes:
            return {}
        present = generation(spark, checkpoint_path(self._settings.lake.root, query))
        rows = self._tables.rows(
            "SELECT topic, batch_id, CAST(sum(coalesce(accepted + dead + tombstones, end_offset - first_offset)) AS BIGINT), "
            "CAST(sum(dead) AS BIGINT) "
            f"FROM {self._relation(BATCH_LEDGER)} WHERE query = '{query}' AND generation = '{present}' "
            "GROUP BY topic, batch_id ORDER BY batch_id DESC"
        )
        found: dict[str, list[tuple[int, int, int | None]]] = {}
        for topic, batch_id, records, dead in rows:
            found.setdefault(topic, []).append((batch_id, records, dead))
        return found

    def _still_dead(self) -> Counter[str] | None:
        """How many dead letters of each topic are neither repaired nor discarded; a decision may be on one that was, before the log
        was ingested anew.
        """
        if DEAD_LETTERS not in self._sizes:
            return Counter()
        if not self._is_countable(DEAD_LETTERS, "dead letters that nothing is decided on"):
            return None
        is_open = ""
        if REPAIRS in self._sizes:
            is_same = " AND ".join(f"decided.{each} = letters.{each}" for each in RECORD_IDENTITY)
            is_open = (
                f"WHERE NOT EXISTS (SELECT 1 FROM {self._relation(REPAIRS)} AS decided "
                f"WHERE decided.status IN ('{REPAIRED}', '{DISCARDED}') AND {is_same})"
            )
        rows = self._tables.rows(
            f"SELECT topic, count(*) FROM {self._relation(DEAD_LETTERS)} AS letters {is_open} GROUP BY topic"
        )
        return Counter(dict(rows))

    def _duplicates(self, kind: str, topic: str) -> int | None:
        """The events accepted as they came that have the identity of another one; every line of text is its own."""
        known = catalog.kinds(self._settings)[kind]
        if known.is_text:
            return 0
        name = known.table
        if not self._is_countable(name, f"duplicates of {topic}"):
            return None
        identity = ", ".join(known.identity)
        repaired = ""
        if REPAIRS in self._sizes:
            is_same = " AND ".join(f"repaired.{each} = events.{each}" for each in RECORD_IDENTITY)
            repaired = (
                f" AND NOT EXISTS (SELECT 1 FROM {self._relation(REPAIRS)} AS repaired "
                f"WHERE repaired.status = '{REPAIRED}' AND {is_same})"
            )
        ((duplicates,),) = self._tables.rows(
            f"SELECT CAST(coalesce(sum(copies - 1), 0) AS BIGINT) FROM (SELECT count(*) AS copies "
            f"FROM {self._relation(name)} AS events WHERE topic = '{topic}'{repaired} GROUP BY {identity}) AS events"
        )
        return int(duplicates)

    def _is_countable(self, name: str, what: str) -> bool:
        if name not in self._sizes:
            return False
        size = self._sizes[name][1]
        if size.files <= _MOST_FILES and size.rows is not None and size.rows <= _MOST_ROWS:
            return True
        self.notes.append(
            f"{what}: not counted, {name} has {size.rows} rows in {size.files} files; `pipeline audit` counts them"
        )
        return False

    def _relation(self, name: str) -> str:
        return self._tables.relation(self._sizes[name][0])


def _literal(time: datetime) -> str:
    """Of a time not far from now: DataFusion reads a literal through nanoseconds, which end in 2262."""
    return f"TIMESTAMP '{time:%Y-%m-%d %H:%M:%S}'"


def _ahead_of_the_clock(
    newest: _Events, queries: Sequence[Standing], views: Sequence[BatchView], now: datetime
) -> Iterator[str]:
    by_kind: dict[str, datetime] = {}
    for (kind, _), time in newest.items():
        by_kind[kind] = max(time, by_kind.get(kind, time))
    yield from (ahead.of_events(kind, time) for kind, time in by_kind.items() if ahead.is_ahead(time, now))
    for one in queries:
        if one.watermark and ahead.is_ahead(one.watermark, now):
            yield ahead.of_watermark(one.query, one.watermark)
    for view in views:
        if view.horizon and ahead.is_ahead(view.horizon, now):
            yield ahead.of_horizon(view.view, view.horizon)


def _by_batch(by_topic: Mapping[str, Sequence[tuple[int, int, int | None]]]) -> list[tuple[int, int]]:
    """The batches over all topics, the newest first, with the records that they read."""
    read: Counter[int] = Counter()
    for batches in by_topic.values():
        for batch_id, records, _ in batches:
            read[batch_id] += records
    return sorted(read.items(), reverse=True)


def _with_events(
    known: Standing,
    query: Query,
    settings: Settings,
    kafka: Kafka,
    late: Mapping[str, tuple[int, int]] | None,
    newest: _Events,
    now: datetime,
) -> Standing:
    """With what the log says: late events, the newest event, and what the watermark waits for."""
    if query.view is None:
        return known
    events, not_healed = (
        (None, None) if late is None or query.is_beside else late.get(query.view.name, (0, 0))
    )
    times = {one: _newest_of(one, newest) for one in query.view.reads if one.kind != TEXT_LINES}
    # The query may be ahead of the log: its watermark tells that it has met a newer event.
    met = [
        time for time in (*times.values(), known.watermark and shifted(known.watermark, _LATENESS)) if time
    ]
    newest_event = max(met, default=None)
    behind = None
    if newest_event and known.watermark:
        behind = (newest_event - known.watermark).total_seconds()
    return replace(
        known,
        late_events=events,
        late_not_healed=not_healed,
        newest_event=newest_event,
        watermark_behind_seconds=behind,
        waits_for=_waits_for(known, times, settings, kafka, now),
    )


def _newest_of(reading: Reading, newest: _Events) -> datetime | None:
    return newest.get((reading.kind, reading.event_type))


def _waits_for(
    known: Standing, times: Mapping[Reading, datetime | None], settings: Settings, kafka: Kafka, now: datetime
) -> Waiting | None:
    """Of a query that has read all there is: the input that holds its watermark back, where that is more than lateness explains.

    That is the input whose events are the oldest, if another one's are newer by more than 10 minutes. Of a query that runs it
    is also the one with the oldest events if all its topics have been silent for longer than that.
    """
    if not times or known.batch_id is None or known.lag_records != 0:
        return None
    topic_of = {kind: topic for topic, kind in kind_of_topic(settings).items()}
    heard: dict[str, datetime] = {}
    for (topic, _), held in kafka.held.items():
        if held.newest_at:
            heard[topic] = max(held.newest_at, heard.get(topic, held.newest_at))

    def silence(reading: Reading) -> float | None:
        last = heard.get(topic_of[reading.kind])
        return (now - last).total_seconds() if last else None

    oldest = min(times, key=lambda one: times[one] or datetime.min.replace(tzinfo=timezone.utc))
    others = [time for one, time in times.items() if one is not oldest and time]
    time = times[oldest]
    is_held_back = bool(others) and (time is None or max(others) - time > _LATENESS)
    shortest = min(silence(one) or 0.0 for one in times)
    is_silent = known.is_running and shortest > _LATENESS.total_seconds()
    if not is_held_back and not is_silent:
        return None
    is_part = is_held_back and any(one.kind == oldest.kind for one in times if one is not oldest)
    event_type = oldest.event_type if is_part else None
    return Waiting(topic_of[oldest.kind], event_type, silence(oldest), time)


def _view(
    spark: SparkSession | None,
    settings: Settings,
    view: View,
    sizes: Mapping[str, tuple[str, Size]],
    now: datetime,
) -> BatchView:
    form = published(spark, settings, view)
    _, speed = sizes.get(f"{view.name}.speed", (None, None))
    _, batch = sizes.get(f"{view.name}.batch", (None, None))
    return BatchView(
        view=view.name,
        horizon=form.horizon if form else None,
        published_at=form.made_at if form else None,
        age_seconds=(now - form.made_at).total_seconds() if form else None,
        rows=batch.rows if batch and form else None,
        speed_rows=speed.rows if speed else None,
    )


def _table(spark: SparkSession | None, name: str, path: str, size: Size) -> Table:
    made = commit(spark, path, size.version)
    return Table(name, path, size.version, size.rows, size.bytes, size.files, made.made_at if made else None)
