"""The speed layer: each view as a streaming query that appends what has changed to its speed table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import catalog, checkpoints, compaction, feeding, guards, ledger, lineage, versions
from pipeline.console import note
from pipeline.delta_log import newest_version
from pipeline.failpoints import failpoint
from pipeline.feeds import feed_of, stream_of_feed
from pipeline.kafka_check import require_topics
from pipeline.lag import observer
from pipeline.published import KEPT_HISTORY, Origin, facts_of, log_versions, published, seed_of
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.sinks import Transaction, add_columns, append, create_table, replace
from pipeline.sources import (
    kafka_options,
    kafka_topics,
    read_version,
    stream_of_kafka,
    stream_of_log,
)
from pipeline.starting import session
from pipeline.stopping import stop_requests
from pipeline.streaming import BatchWriter, await_all, end_all, guarded, start
from pipeline.tables import BATCH_LEDGER, SCHEMAS, checkpoint_path, local_path, table_path, view_path
from pipeline.views import BATCH_ID, View, best_of_each_key

__all__ = [
    "Held",
    "held",
    "live",
    "require_ready",
    "require_their_topics",
    "run",
    "run_versions",
    "start_view",
    "stream_rows",
]

WORD_COUNTS = "word_counts"
_FEED_EVERY_SECONDS = _LOOKS_EVERY_SECONDS = 1.0
_LEDGER_EVERY = 25
"""Batches; well below the 100 whose offsets Spark keeps."""


@dataclass(frozen=True)
class _Seed:
    """The batch rows that a keyed-state query began with, and the horizon from which on it counts events itself."""

    rows: DataFrame
    horizon: datetime | None


def run(settings: Settings, *, views: Sequence[str] = (), once: bool) -> None:
    """Run the live versions of the views (all by default) in one session until stopped, or with `once` until what is there has
    been read. Raises DefinitionChanged.
    """
    run_versions(settings, live(settings, views), once=once)


def live(settings: Settings, names: Sequence[str]) -> list[View]:
    """The versions that readers see of these views, or of all. Raises DefinitionChanged."""
    known = versions.live_views(_early_session(settings), settings)
    chosen = [known[name] for name in names or known]
    versions.require_same_definition(settings, chosen)
    return chosen


def run_versions(
    settings: Settings, chosen: Sequence[View], *, once: bool, origin: Origin = "typed", job: str = "speed"
) -> None:
    """As `run`, just these versions. A feed that is not there yet is made from the log, whose events are read by `origin`."""
    if not once:
        _await_log(settings, chosen)
    require_ready(settings, chosen)
    spark, root = session(settings), settings.lake.root
    with ExitStack() as at_the_end:
        stop = at_the_end.enter_context(stop_requests())
        views = at_the_end.enter_context(held(spark, settings, chosen, origin=origin, job=job))
        watcher = at_the_end.enter_context(observer(spark, settings, job, views.names))

        def at_end(query: str) -> None:
            views.enter_batches(query)
            if once and not stop.is_set():
                _tell_what_waits(spark, root, views.views[query])

        await_all(
            views.start(once=once),
            root=root,
            stop=stop,
            at_end=at_end,
            observer=watcher,
            meanwhile=None if once else views.extend_feeds,
        )


def require_ready(settings: Settings, chosen: Sequence[View]) -> None:
    """Raise where a topic or the log that the views read is not there, or the disk has no room: before anything is made for them."""
    require_their_topics(settings, chosen)
    spark, root = session(settings), settings.lake.root
    for view in chosen:
        guards.require_space(root, query=view.query, min_free_mebibytes=settings.lake.min_free_mebibytes)
    log_versions(spark, settings, _streamed_tables(spark, settings, chosen))
    if any(view.source == "feed" for view in chosen):
        feeding.require_history(spark, settings)


def _await_log(settings: Settings, chosen: Sequence[View]) -> None:
    """Ingest may be started at the same time: its tables are waited for, and not made here, where a lake's name may be mistyped."""
    require_their_topics(settings, chosen)
    spark, root, is_told = session(settings), settings.lake.root, False
    names = _streamed_tables(spark, settings, chosen)
    while missing := [name for name in names if newest_version(spark, table_path(root, name)) is None]:
        if not is_told:
            note(f"waiting for ingest: there is no {', '.join(missing)} in the lake {root} yet")
            is_told = True
        time.sleep(_LOOKS_EVERY_SECONDS)


def _streamed_tables(spark: SparkSession, settings: Settings, views: Sequence[View]) -> list[str]:
    """The names of the tables that the views which read the log read."""
    kinds = catalog.kinds(settings)
    of_log = [view for view in views if versions.source_of(spark, settings, view) == "log"]
    return [*dict.fromkeys(kinds[kind].table for view in of_log for kind in view.inputs)]


def require_their_topics(settings: Settings, chosen: Sequence[View]) -> None:
    """Raises KafkaUnreachable, TopicMissing where a view needs Kafka: asked before a session is made, on a local lake."""
    of_kafka = _of_kafka(_early_session(settings), settings, chosen)
    if of_kafka or any(view.name == WORD_COUNTS for view in chosen):
        require_topics(
            settings.kafka.bootstrap_servers,
            _topics(settings, chosen, of_kafka),
            options=kafka_options(settings),
            written=[settings.kafka.topics.word_counts_output],
        )


@dataclass(frozen=True)
class Held:
    """Queries of views that are this process's: what is done with them, by the name of the query where one is meant."""

    spark: SparkSession
    settings: Settings
    views: Mapping[str, View]

    @property
    def names(self) -> list[str]:
        return [*self.views]

    def start(self, *, once: bool) -> list[StreamingQuery]:
        return _start_all(self.spark, self.settings, [*self.views.values()], once=once)

    def enter_batches(self, query: str) -> None:
        """Into the ledger, what the query has finished."""
        if query in self.views:
            _enter_batches(self.spark, self.settings, self.views[query])

    @cached_property
    def extend_feeds(self) -> Callable[[Sequence[str]], object] | None:
        """To be called with the queries that still run; None where none of them reads a feed."""
        fed = {query: view for query, view in self.views.items() if view.source == "feed"}
        return _feeder(self.spark, self.settings, fed) if fed else None


@contextmanager
def held(
    spark: SparkSession,
    settings: Settings,
    chosen: Sequence[View],
    *,
    origin: Origin = "typed",
    job: str = "speed",
) -> Iterator[Held]:
    """The queries of these versions are this process's, behind their guards (`streaming.guarded`), and whoever follows the lineage is
    told.
    """
    root, of_kafka = settings.lake.root, _of_kafka(spark, settings, chosen)
    create_table(spark, table_path(root, BATCH_LEDGER), SCHEMAS[BATCH_LEDGER])
    with ExitStack() as at_the_end:
        at_the_end.enter_context(_told(settings, chosen, of_kafka, job))
        for view in chosen:
            table = view_path(root, view.name, "speed", view.label)
            topics = kafka_topics(settings, view.inputs if view in of_kafka else ())
            at_the_end.enter_context(
                guarded(spark, query=view.query, root=root, tables=[table], topics=topics)
            )
            _enter_batches(spark, settings, view)
        fed = [view for view in chosen if view.source == "feed"]
        side_by_side(spark, [partial(_feed, spark, settings, view, origin) for view in fed])
        yield Held(spark, settings, {view.query: view for view in chosen})


def _early_session(settings: Settings) -> SparkSession | None:
    """A local lake is looked at without one: what is refused is refused before Spark starts."""
    return None if local_path(settings.lake.root) is not None else session(settings)


def _of_kafka(spark: SparkSession | None, settings: Settings, views: Sequence[View]) -> list[View]:
    return [view for view in views if versions.source_of(spark, settings, view) == "kafka"]


def _feed(spark: SparkSession, settings: Settings, view: View, origin: Origin) -> None:
    feeding.prepare(spark, settings, view, origin=origin)
    feeding.extend(spark, settings, view)


def _feeder(
    spark: SparkSession, settings: Settings, by_query: Mapping[str, View]
) -> Callable[[Sequence[str]], None]:
    """Lets the feeds of the queries that are named follow the log, once a second: of others another process may do so by now."""
    next_look = [0.0]

    def feed(running: Sequence[str]) -> None:
        if time.monotonic() >= next_look[0]:
            for query in running:
                if query in by_query:
                    feeding.extend(spark, settings, by_query[query])
            next_look[0] = time.monotonic() + _FEED_EVERY_SECONDS

    return feed


def _enter_batches(spark: SparkSession, settings: Settings, view: View) -> None:
    root, tables = settings.lake.root, catalog.typed_tables(settings)
    ledger.catch_up(spark, root, view.query, tables=tables, feed=feed_of(root, view))


def _tell_what_waits(spark: SparkSession, root: str, view: View) -> None:
    """Of a query that has drained what there is: rows that a run was killed before giving."""
    due = checkpoints.due_watermark(spark, checkpoint_path(root, view.query))
    if due is not None:
        note(
            f"{view.name}: a run was cut short, and no event has come since. What is complete up to {due:%Y-%m-%dT%H:%M:%SZ}, as a "
            "join's rows without a partner, comes with the next events; a batch run has it now."
        )


def _told(
    settings: Settings, views: Sequence[View], of_kafka: Sequence[View], job: str
) -> AbstractContextManager[None]:
    root, kinds = settings.lake.root, catalog.kinds(settings)
    of_topics = [kind for view in of_kafka for kind in view.inputs]
    of_log = dict.fromkeys(kind for view in views if view not in of_kafka for kind in view.inputs)
    outputs = [lineage.table(view_path(root, view.name, "speed", view.label)) for view in views]
    return lineage.told(
        settings,
        job,
        inputs=[
            *[
                lineage.topic(settings.kafka.bootstrap_servers, name)
                for name in kafka_topics(settings, of_topics).names
            ],
            *[lineage.table(table_path(root, kinds[kind].table)) for kind in of_log],
        ],
        outputs=outputs,
    )


def _start_all(
    spark: SparkSession, settings: Settings, views: Sequence[View], *, once: bool
) -> list[StreamingQuery]:
    """Start all; where one refuses, those before it end in order."""
    queries: list[StreamingQuery] = []
    try:
        for view in views:
            queries.append(start_view(spark, settings, view, once=once))
    except BaseException:
        end_all(queries)
        raise
    return queries


def start_view(spark: SparkSession, settings: Settings, view: View, *, once: bool) -> StreamingQuery:
    """Start the view's query on its table, which is made where it is not there. Raises PlanChanged, CheckpointDamaged, DiskFull."""
    table = view_path(settings.lake.root, view.name, "speed", view.label)
    create_table(spark, table, view.speed_schema, properties=KEPT_HISTORY if view.is_seeded else None)
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    guards.check_columns(spark, query=view.query, checkpoint=checkpoint, tables={table: view.speed_schema})
    add_columns(spark, table, view.speed_schema)
    return start(
        stream_rows(spark, settings, view),
        query=view.query,
        root=settings.lake.root,
        tables=[table],
        keys=view.keys,
        state_partitions=settings.speed.state_partitions,
        join_state=settings.speed.join_state,
        min_free_mebibytes=settings.lake.min_free_mebibytes,
        output_mode=view.output_mode,
        trigger=settings.speed.trigger,
        once=once,
        write=_writer(settings, view, table, keep=compaction.keeper(spark, table, view)),
    )


def stream_rows(spark: SparkSession, settings: Settings, view: View) -> DataFrame:
    """What the view's query gives, not started; a new seeded query's table is made a copy of the batch form.

    Raises RefusedToStart where it may give several rows of a key and the view does not say which of them counts.
    """
    rows = _defined(spark, settings, view)
    guards.check_precedence(rows, view=view)
    return rows


def _defined(spark: SparkSession, settings: Settings, view: View) -> DataFrame:
    events = [_events(spark, settings, view, kind) for kind in view.inputs]
    if not view.is_seeded or view.source is not None:  # a rebuild counts from the beginning itself
        return view.define(*events)
    seed = _seed(spark, settings, view)
    if seed.horizon is not None:
        events = [rows.where(F.col("event_time") >= seed.horizon) for rows in events]
    return view.define(*events, seed=seed.rows)


def _events(spark: SparkSession, settings: Settings, view: View, kind: str) -> DataFrame:
    feed = feed_of(settings.lake.root, view)
    if feed is not None:
        return stream_of_feed(spark, feed, kind)
    if versions.source_of(spark, settings, view) == "kafka":
        return stream_of_kafka(spark, settings, kind)
    has_begun = (
        checkpoints.last_committed_batch(spark, checkpoint_path(settings.lake.root, view.query)) is not None
    )
    return stream_of_log(spark, settings, kind, has_begun=has_begun)


def _writer(settings: Settings, view: View, table: str, *, keep: Callable[[], None]) -> BatchWriter:
    """`keep` is called after each append."""

    def write(changes: DataFrame, transaction: Transaction) -> None:
        failpoint("speed: begun")
        spark = changes.sparkSession
        rows = best_of_each_key(changes, view=view)
        is_published = view.name == WORD_COUNTS and _is_live(spark, settings, view)
        if is_published:
            rows = rows.persist()
        try:
            _append(rows, table, transaction=transaction)
            failpoint("speed: written")
            if is_published:
                _publish_counts(rows, settings)
                failpoint("speed: counts published")
        finally:
            rows.unpersist()
        keep()
        if transaction.batch_id % _LEDGER_EVERY == _LEDGER_EVERY - 1:
            _enter_batches(spark, settings, view)
            failpoint("speed: in the ledger")

    return write


def _is_live(spark: SparkSession, settings: Settings, view: View) -> bool:
    """What goes out to others is that of the version that readers see."""
    return versions.read(spark, settings).live(view).label == view.label


def _append(rows: DataFrame, table: str, *, transaction: Transaction) -> None:
    """Append the rows with their batch. It is one pass, which also brings the query's state to this batch: where the table has the
    batch since a run that was broken off, it is made all the same.
    """
    given = rows.withColumn(BATCH_ID, _batch_id(transaction.batch_id))
    if not append(given, table, transaction=transaction):
        given.write.format("noop").mode("overwrite").save()


def _batch_id(number: int) -> Column:
    """A number would stand in the generated code, which would then be compiled anew in each batch. What an array holds does not, as
    long as its place is not known before the rows are made.
    """
    return F.get(F.array(F.lit(number).cast("long")), F.spark_partition_id() * 0)


def _publish_counts(counts: DataFrame, settings: Settings) -> None:
    """Each changed count as a record: key the word, value {"word", "count"}. A replay may send it again, unchanged."""
    records = counts.select(F.col("word").alias("key"), F.to_json(F.struct("word", "count")).alias("value"))
    (
        records.write.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .options(**kafka_options(settings))
        .option("topic", settings.kafka.topics.word_counts_output)
        .save()
    )


def _seed(spark: SparkSession, settings: Settings, view: View) -> _Seed:
    """What the query begins with; for a new query that is the batch form as it is published now.

    A new query's table starts as a copy of the seed, and that commit says which it was: the horizon must stay what it
    was at the first start. Spark takes the rows in the first batch only. A restart gives none, unless that batch was not
    finished and is run again: then what the commit holds.
    """
    none = spark.createDataFrame([], view.schema)
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    if checkpoints.last_batch(spark, checkpoint) is not None:
        began = seed_of(spark, settings, view)
        if began is None or checkpoints.last_committed_batch(spark, checkpoint) is not None:
            return _Seed(none, began.horizon if began else None)
        return _Seed(read_version(spark, began.path, began.version).select(*view.schema.names), began.horizon)
    newest = published(spark, settings, view)
    if newest is None:
        return _Seed(none, None)
    rows = read_version(spark, newest.path, newest.version).select(*view.schema.names)
    table = view_path(settings.lake.root, view.name, "speed", view.label)
    guards.require_space(
        settings.lake.root, query=view.query, min_free_mebibytes=settings.lake.min_free_mebibytes
    )
    replace(rows, table, metadata=facts_of(newest.horizon, newest.log))
    failpoint("seed: copied")
    return _Seed(rows, newest.horizon)


def _topics(settings: Settings, views: Sequence[View], of_kafka: Sequence[View]) -> list[str]:
    """Those that the views of Kafka read, and that of the word counts."""
    needed = {*kafka_topics(settings, [kind for view in of_kafka for kind in view.inputs]).names}
    if any(view.name == WORD_COUNTS for view in views):
        needed.add(settings.kafka.topics.word_counts_output)
    return sorted(needed)
