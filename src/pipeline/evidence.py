"""What the speed queries are judged by: the log, the ledger's entries, how far each query is judged, and what was late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import catalog, late, ledger, versions
from pipeline.console import step
from pipeline.contracts import RECORD_ADDRESS, RECORD_IDENTITY, REPAIRED
from pipeline.delta_log import version_of_batch
from pipeline.feeds import feed_of
from pipeline.published import Snapshot, events_of, published, seed_of, snapshot
from pipeline.settings import Settings
from pipeline.sinks import Transaction, create_table
from pipeline.sources import kind_of_topic, table_version
from pipeline.starting import session
from pipeline.tables import (
    BATCH_LEDGER,
    REPAIRS,
    SCHEMAS,
    table_path,
    view_path,
)
from pipeline.views import View

__all__ = [
    "Evidence",
    "collect",
    "counted",
    "enter_late_events",
    "identified_events",
    "lateness",
    "speed_table",
    "unrepaired",
]


@dataclass(frozen=True)
class Evidence:
    """What the speed queries are judged by, as of one moment: the log, the ledger's entries, and how far each query is judged.

    `entries` name only topics that their source reads. `scopes` are by view, of those whose query has begun; `repaired` are the addresses of repaired dead letters, with `met_by`: the views
    whose query has read it all the same, in the history of a feed.
    """

    log: Snapshot
    entries: DataFrame
    scopes: Mapping[str, late.Scope]
    repaired: DataFrame

    def repaired_for(self, view: str) -> DataFrame:
        """The addresses of those that were dead when the view's query read them."""
        return self.repaired.where(~F.array_contains("met_by", view)).select(*RECORD_IDENTITY)


def collect(
    spark: SparkSession, settings: Settings, *, versions_of: Sequence[View] | None = None
) -> Evidence:
    """What is known by now of the live versions (or these), with the finished batches of every query entered in the ledger.

    The log is read after the ledger, so that it holds all that the ledger's entries of ingest name.
    """
    root = settings.lake.root
    log = snapshot(spark, settings)
    create_table(spark, table_path(root, BATCH_LEDGER), SCHEMAS[BATCH_LEDGER])
    finished, views = {}, versions_of or [*versions.live_views(spark, settings).values()]
    tables = catalog.typed_tables(settings)
    for view in views:
        newest = ledger.catch_up(spark, root, view.query, tables=tables, feed=feed_of(root, view))
        if newest is not None:
            finished[view.query] = newest
    generations = ledger.generations(spark, root, [ledger.INGEST, *finished])
    entries = ledger.entries(spark, root, generations).where(_is_of_its_kind(settings, views))
    judged = ledger.judged(entries, finished) if finished else {}
    scopes = {}
    for view in views:
        if view.query in judged:
            seed = seed_of(spark, settings, view)
            counts_from = seed.horizon if seed else None
            scopes[view.name] = late.Scope(view, generations[view.query], judged[view.query], counts_from)
    log = snapshot(spark, settings) if scopes else log
    return Evidence(
        log, entries, scopes, _repaired(spark, settings, [scope.view for scope in scopes.values()])
    )


def _is_of_its_kind(settings: Settings, views: Sequence[View]) -> Column:
    """Of an entry of the ledger: whether its source reads that topic.

    A source of the log is entered with all that ingest had read for its batch, the topics of other kinds among it.
    """
    kinds = kind_of_topic(settings)
    is_met = F.col("query") == ledger.INGEST
    for view in views:
        for source, reading in enumerate(view.reads):
            topics = [topic for topic, kind in kinds.items() if kind == reading.kind]
            is_source = (F.col("query") == view.query) & (F.col("source") == source)
            is_met = is_met | (is_source & F.col("topic").isin(topics))
    return is_met


def enter_late_events(spark: SparkSession, settings: Settings, found: Evidence) -> None:
    """Enter what the queries missed and `late_events` does not have yet."""
    late.enter(
        spark,
        settings.lake.root,
        events=identified_events(spark, settings, found),
        entries=found.entries,
        scopes=[*found.scopes.values()],
        counted=counted(spark, settings, found, views=[*found.scopes]),
        basis=_basis(found),
    )


def lateness(settings: Settings, *, views: Sequence[str] = ()) -> list[late.Lateness]:
    """How late events came for each view (all by default), with those that are entered now."""
    spark = session(settings)
    found = collect(spark, settings)
    if found.scopes:
        with step("late events"):
            enter_late_events(spark, settings, found)
    return late.lateness(spark, settings.lake.root, views or [*catalog.views(settings)])


def speed_table(
    spark: SparkSession, settings: Settings, view: View, found: Evidence
) -> tuple[str, int] | None:
    """Path and version of the speed table as the newest judged batch left it."""
    path = view_path(settings.lake.root, view.name, "speed", view.label)
    scope = found.scopes.get(view.name)
    if scope is None:
        return None
    application = Transaction(view.query, scope.generation, 0).application
    version = version_of_batch(spark, path, application=application, batch_id=scope.judged)
    return None if version is None else (path, version)


def identified_events(
    spark: SparkSession, settings: Settings, found: Evidence, *, with_text: bool = False
) -> DataFrame:
    """The events, in the form of `late.identified`; of repaired ones those that a query has met all the same."""
    parts = [
        late.identified(_met(events_of(spark, settings, kind.name, log=found.log), found), kind)
        for kind in catalog.kinds(settings).values()
        if with_text or not kind.is_text
    ]
    return reduce(DataFrame.unionByName, parts)


def unrepaired(events: DataFrame, found: Evidence, *, view: str) -> DataFrame:
    """The events that were accepted when the view's query read them: a repaired one was dead."""
    return events.join(F.broadcast(found.repaired_for(view)), on=[*RECORD_IDENTITY], how="left_anti")


def _met(events: DataFrame, found: Evidence) -> DataFrame:
    """The events, each with `met_by`: null where it was accepted as it came, so that every query has met it."""
    joined = events.join(F.broadcast(found.repaired), on=[*RECORD_IDENTITY], how="left")
    return joined.where(F.col("met_by").isNull() | (F.size("met_by") > 0))


def counted(
    spark: SparkSession, settings: Settings, found: Evidence, *, views: Sequence[str]
) -> dict[str, late.Counted]:
    """What the published batch forms of these views count, of those that a horizon cuts."""
    forms = {}
    known, kinds = versions.live_views(spark, settings), catalog.kinds(settings)
    for name in views:
        form, inputs = published(spark, settings, known[name]), known[name].inputs
        if form is None or form.horizon is None:
            continue
        tables = [kinds[kind].table for kind in inputs]
        is_same = all(form.log.versions[table] == found.log.versions[table] for table in tables)
        held = [events_of(spark, settings, kind, log=form.log) for kind in inputs]
        forms[name] = late.Counted(form.horizon, form.made_at, None if is_same else held)
    return forms


def _basis(found: Evidence) -> dict[str, Any]:
    """What decides which events are late: how far each query is judged, and the log as it is, its repairs among it."""
    scopes = {
        name: [scope.generation, scope.judged, scope.counts_from.isoformat() if scope.counts_from else None]
        for name, scope in sorted(found.scopes.items())
    }
    return {"judged": scopes, "log": dict(found.log.versions)}


def _repaired(spark: SparkSession, settings: Settings, views: Sequence[View]) -> DataFrame:
    root = settings.lake.root
    met_by = T.StructField("met_by", T.ArrayType(T.StringType()))
    if table_version(spark, table_path(root, REPAIRS)) is None:
        return spark.createDataFrame([], T.StructType([*RECORD_ADDRESS, met_by]))
    repairs = spark.read.format("delta").load(table_path(root, REPAIRS))
    repaired = repairs.where(F.col("status") == REPAIRED).select(*RECORD_IDENTITY)
    met = [
        _in_feed(spark, feed, kind)
        .join(F.broadcast(repaired), on=[*RECORD_IDENTITY], how="left_semi")
        .withColumn("view", F.lit(view.name))
        for view in views
        if (feed := feed_of(root, view))
        for kind in view.inputs
    ]
    if not met:
        return repaired.withColumn("met_by", F.array().cast("array<string>"))
    by_address = (
        reduce(DataFrame.union, met).groupBy(*RECORD_IDENTITY).agg(F.collect_set("view").alias("met_by"))
    )
    joined = repaired.join(F.broadcast(by_address), on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn("met_by", F.coalesce("met_by", F.array().cast("array<string>")))


def _in_feed(spark: SparkSession, feed: str, kind: str) -> DataFrame:
    events = spark.read.format("delta").load(feed).where(F.col("kind") == kind)
    return events.select(*[f"`{kind}`.{name}" for name in RECORD_IDENTITY])
