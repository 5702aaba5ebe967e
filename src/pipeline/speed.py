"""The speed layer: each view as a streaming query that upserts what has changed into its speed table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import catalog, checkpoints, ledger, lineage, versions
from pipeline.failpoints import failpoint
from pipeline.kafka_check import require_topics
from pipeline.lag import observer
from pipeline.published import KEPT_HISTORY, facts_of, published, seed_of
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sinks import Transaction, append, create_table, replace, upsert
from pipeline.sources import kafka_topics, read_version, stream_events
from pipeline.stopping import stop_requests
from pipeline.streaming import BatchWriter, await_all, end_all, guarded, start
from pipeline.tables import BATCH_LEDGER, SCHEMAS, checkpoint_path, local_path, table_path, view_path
from pipeline.views import View, best_of_each_key

__all__ = ["run", "start_view"]

WORD_COUNTS = "word_counts"
_LEDGER_EVERY = 25
"""Batches; well below the 100 whose offsets Spark keeps."""


@dataclass(frozen=True)
class _Seed:
    """The batch rows that a keyed-state query began with, and the horizon from which on it counts events itself."""

    rows: DataFrame
    horizon: datetime | None


def run(settings: Settings, *, views: Sequence[str] = (), once: bool) -> None:
    """Run the views (all by default) in one session until stopped, or with `once` until what is there has been read."""
    is_local = local_path(settings.lake.root) is not None
    known = versions.live_views(None if is_local else session(settings), settings)
    chosen = [known[name] for name in views or known]
    versions.require_same_definition(settings, chosen)
    if settings.speed.source == "kafka" or any(view.name == WORD_COUNTS for view in chosen):
        require_topics(
            settings.kafka.bootstrap_servers, _topics(settings, chosen), options=settings.kafka.options
        )
    spark, root = session(settings), settings.lake.root
    create_table(spark, table_path(root, BATCH_LEDGER), SCHEMAS[BATCH_LEDGER])
    with ExitStack() as held:
        stop = held.enter_context(stop_requests())
        held.enter_context(_told(settings, chosen))
        for view in chosen:
            table = view_path(root, view.name, "speed", view.label)
            topics = kafka_topics(settings, view.inputs if settings.speed.source == "kafka" else ())
            held.enter_context(guarded(spark, query=view.query, root=root, tables=[table], topics=topics))
            ledger.catch_up(spark, root, view.query, tables=catalog.typed_tables(settings))
        watcher = observer(spark, settings, "speed", [view.query for view in chosen])
        queries = _start_all(spark, settings, chosen, once=once)
        await_all(
            queries,
            root=root,
            stop=stop,
            at_end=lambda query: ledger.catch_up(spark, root, query, tables=catalog.typed_tables(settings)),
            observer=watcher,
        )


def _told(settings: Settings, views: Sequence[View]) -> AbstractContextManager[None]:
    root, kinds = settings.lake.root, catalog.kinds(settings)
    read = dict.fromkeys(kind for view in views for kind in view.inputs)
    if settings.speed.source == "kafka":
        topics = kafka_topics(settings, [*read]).names
        inputs = [lineage.topic(settings.kafka.bootstrap_servers, name) for name in topics]
    else:
        inputs = [lineage.table(table_path(root, kinds[kind].table)) for kind in read]
    outputs = [lineage.table(view_path(root, view.name, "speed", view.label)) for view in views]
    return lineage.told(settings, "speed", inputs=inputs, outputs=outputs)


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
    table = view_path(settings.lake.root, view.name, "speed", view.label)
    create_table(spark, table, view.schema, properties=KEPT_HISTORY if view.is_seeded else None)
    return start(
        _rows(spark, settings, view),
        query=view.query,
        root=settings.lake.root,
        tables=[table],
        keys=view.keys,
        state_partitions=settings.speed.state_partitions,
        min_free_mebibytes=settings.lake.min_free_mebibytes,
        output_mode=view.output_mode,
        trigger=settings.speed.trigger,
        once=once,
        write=_writer(settings, view, table),
    )


def _rows(spark: SparkSession, settings: Settings, view: View) -> DataFrame:
    events = [stream_events(spark, settings, kind) for kind in view.inputs]
    if not view.is_seeded:
        return view.define(*events)
    seed = _seed(spark, settings, view)
    if seed.horizon is not None:
        events = [rows.where(F.col("event_time") >= seed.horizon) for rows in events]
    return view.define(*events, seed=seed.rows)


def _writer(settings: Settings, view: View, table: str) -> BatchWriter:
    root = settings.lake.root

    def write(changes: DataFrame, transaction: Transaction) -> None:
        failpoint("speed: begun")
        rows = best_of_each_key(changes.select(*view.schema.names), view=view).persist()
        try:
            if rows.count():
                is_empty = transaction.batch_id == 0 and not view.is_seeded
                _put(rows, table, view=view, transaction=transaction, is_empty=is_empty)
                failpoint("speed: written")
                if view.name == WORD_COUNTS:
                    _publish_counts(rows, settings)
                    failpoint("speed: counts published")
        finally:
            rows.unpersist()
        if transaction.batch_id % _LEDGER_EVERY == _LEDGER_EVERY - 1:
            tables = catalog.typed_tables(settings)
            ledger.catch_up(changes.sparkSession, root, view.query, tables=tables)
            failpoint("speed: in the ledger")

    return write


def _put(rows: DataFrame, table: str, *, view: View, transaction: Transaction, is_empty: bool) -> None:
    """Upsert; into a table without rows an append does the same at a fraction of the cost."""
    if is_empty:
        append(rows, table, transaction=transaction)
    else:
        upsert(rows, table, view=view, transaction=transaction)


def _publish_counts(counts: DataFrame, settings: Settings) -> None:
    """Each changed count as a record: key the word, value {"word", "count"}. A replay may send it again, unchanged."""
    records = counts.select(F.col("word").alias("key"), F.to_json(F.struct("word", "count")).alias("value"))
    (
        records.write.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .options(**settings.kafka.options)
        .option("topic", settings.kafka.topics.word_counts_output)
        .save()
    )


def _seed(spark: SparkSession, settings: Settings, view: View) -> _Seed:
    """What the query begins with; for a new query that is the batch form as it is published now.

    A new query's table starts as a copy of the seed, and that commit says which it was: the horizon must stay what it
    was at the first start. Spark takes the rows only then, so a restart gives none.
    """
    none = spark.createDataFrame([], view.schema)
    if checkpoints.last_batch(spark, checkpoint_path(settings.lake.root, view.query)) is not None:
        began = seed_of(spark, settings, view)
        return _Seed(none, began.horizon if began else None)
    newest = published(spark, settings, view)
    if newest is None:
        return _Seed(none, None)
    rows = read_version(spark, newest.path, newest.version).select(*view.schema.names)
    table = view_path(settings.lake.root, view.name, "speed", view.label)
    replace(rows, table, metadata=facts_of(newest.horizon, newest.log, seed_version=newest.version))
    failpoint("seed: copied")
    return _Seed(rows, newest.horizon)


def _topics(settings: Settings, views: Sequence[View]) -> list[str]:
    kinds = {kind for view in views for kind in view.inputs}
    needed = {*kafka_topics(settings, [*kinds]).names} if settings.speed.source == "kafka" else set()
    if any(view.name == WORD_COUNTS for view in views):
        needed.add(settings.kafka.topics.word_counts_output)
    return sorted(needed)
